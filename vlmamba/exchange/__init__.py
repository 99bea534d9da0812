"""Import and export: published parts into a model directory, and a model's parts into other projects' layouts."""
