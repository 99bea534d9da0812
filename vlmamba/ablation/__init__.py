"""The paper's ablations, Tables 2 to 5, at a scale at which every row can be trained several times."""
