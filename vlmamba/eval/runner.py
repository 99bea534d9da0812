"""What `vlmamba eval` does: every question of a benchmark to a model, its answers kept as they come, then scores.

What a run leaves behind in its folder OUT (`vlmamba score -o OUT` writes the same but for the answers):

    OUT/manifest.json            what was run: {"format", "partial", "versions", "model": {"name", "fingerprint", "dtype",
                                 "device"}, "tasks": {task: {"partial", "protocol", "limit", "num_questions", "num_asked",
                                 "num_missing", "data", "files": {path: {"bytes", "sha256"}}, "pictures": {"count",
                                 "bytes", "sha256"}, "prompts_sha256", "parser_sha256", "max_new_tokens", "batch_size"}}}
    OUT/<task>/answers.jsonl     a line an answer as LLaVA writes them: question_id, prompt, text, model_id, metadata
    OUT/<task>/scores.json       {"task", "protocol", "metric", "value", "interval": [low, high], "tables": {name: {...}},
                                 "num_questions", "num_missing", "partial", "notes": [...]}
    OUT/<task>/samples.jsonl     a line a scored answer: {"id", "category", "prompt", "picture", "raw", "parsed", "gold",
                                 "score" (0 to 1), "rule"}; "picture" is an absolute path, or one relative to
                                 OUT/<task>/ where the benchmark embeds its pictures, or null
    OUT/<task>/pictures/         the embedded pictures (mmbench, mmmu)
    OUT/<task>/submission.*      what the benchmark's server takes; submission.partial.* after --limit
    OUT/mmvet/grades.json        the judge's grades
"""
