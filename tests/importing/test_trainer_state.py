import json

import numpy as np

from steadygrad.importing import import_log
from steadygrad.runs import load_run

# The shape of the file as the Hugging Face Trainer writes it at each checkpoint.
STATE = {
    "best_global_step": None,
    "best_metric": None,
    "best_model_checkpoint": None,
    "epoch": 2.0,
    "eval_steps": 500,
    "global_step": 30,
    "is_hyper_param_search": False,
    "is_local_process_zero": True,
    "is_world_process_zero": True,
    "log_history": [
        {"epoch": 0.67, "grad_norm": 1.5, "learning_rate": 4e-05, "loss": 2.25, "step": 10},
        {"epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 0.5, "eval_samples_per_second": 20.0, "step": 15},
        {"epoch": 1.33, "grad_norm": float("nan"), "learning_rate": 2e-05, "loss": 0.0, "step": 20},
        {"epoch": 2.0, "grad_norm": None, "learning_rate": 0.0, "loss": 1.75, "step": 30},
        {"epoch": 2.0, "step": 30, "total_flos": 1e12, "train_loss": 1.9, "train_runtime": 9.0},
    ],
    "logging_steps": 10,
    "max_steps": 30,
    "num_train_epochs": 2,
    "stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {}}},
    "total_flos": 1e12,
    "train_batch_size": 8,
    "trial_name": None,
    "trial_params": None,
}


def test_training_entries_and_nothing_else(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE, indent=2, sort_keys=True))
    for number, source in enumerate([tmp_path / "trainer_state.json", tmp_path]):
        run = load_run(import_log(source, tmp_path / str(number)))
        np.testing.assert_array_equal(run.step, [10, 20, 30])
        np.testing.assert_array_equal(run.loss, [2.25, 0.0, 1.75])
        np.testing.assert_array_equal(run.total_norm, [1.5, np.nan, np.nan])
        np.testing.assert_array_equal(run.recorded("total_norm"), [True, True, False])
        np.testing.assert_array_equal(run.lr, [4e-05, 2e-05, 0.0])
        assert run.meta["imported"]["format"] == "trainer_state"


def test_logs_without_gradient_norm(tmp_path):
    entries = [{"loss": 1.0, "step": 1, "learning_rate": 0.1}]
    (tmp_path / "state.json").write_text(json.dumps({"log_history": entries}))
    run = load_run(import_log(tmp_path / "state.json", tmp_path / "run"))
    assert run.loss.tolist() == [1.0]
    assert not run.recorded("total_norm").any()
