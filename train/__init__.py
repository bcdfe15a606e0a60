"""The trainer and its data models: stands alone, and is what a container or a rented host runs.

`python -m train dpo|orpo|kto|sft|check|evaluate|estimate --config FILE` and `rate` are its commands. The modules
`config`, `requirement`, `metrics`, `errors`, `stage_a` and `pairs` need pydantic only, so that a launcher can import
them without torch.
"""
