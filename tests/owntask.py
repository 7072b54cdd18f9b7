"A task for lm-evaluation-harness that is not one of its own, for tests and benchmarks."
from pathlib import Path


def own_task(folder:Path)->str:
    "Writes `mine.yaml`, the questions of `folder/piqa.jsonl` by likelihood; returns the task's name."
    (folder/'mine.yaml').write_text(f"""task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder/'piqa.jsonl'}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list: [{{metric: acc}}]
""")
    return 'mine'
