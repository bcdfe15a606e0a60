# pyright: basic, reportMissingImports=false
"""What TRL's DPOTrainer is told of a run, of whatever method."""

from __future__ import annotations

from trl import DPOConfig

from train.config import RunConfig, Training


def micro_batch_size(training: Training, processes: int) -> int:
    """Pairs that a process has in memory at once."""
    share = training.batch_size // processes
    return min(training.micro_batch_size or share, share)


def arguments(config: RunConfig, precision: str, steps: int) -> DPOConfig:
    """What DPOTrainer is told in each process. `steps` is where the run and its learning rate schedule end."""
    training, execution = config.training, config.execution
    share = training.batch_size // execution.processes
    micro = micro_batch_size(training, execution.processes)
    return DPOConfig(
        output_dir=str(config.output_dir / "checkpoints"),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        max_steps=steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=training.warmup_steps,
        beta=training.beta,
        loss_type=list(training.loss_type),
        loss_weights=list(training.loss_weights) if training.loss_weights else None,
        label_smoothing=training.label_smoothing,
        max_length=training.max_length,
        seed=training.seed,
        data_seed=training.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=execution.device == "cpu",
        activation_checkpointing=execution.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if execution.gradient_checkpointing else None,
        precompute_ref_log_probs=False,
        disable_dropout=config.method != "sft",  # as TRL's own trainers have it: what is compared has none
        prediction_loss_only=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the course of the run decides, by steps and by time
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=execution.device == "cuda",
        remove_unused_columns=False,
    )
