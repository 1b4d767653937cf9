"""Calibration end to end with budgets for tests."""

import torch

from altq.calibration import end_to_end
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.experiment.baselines import OSTQUANT, SPINQUANT
from altq.experiment.setting import Setting

W4A4K4V4 = Setting(4, 4, 4, 4)
TRAINED = {"spinquant": SPINQUANT, "ostquant": OSTQUANT}


def few(recipe, **options):
    """A recipe with a budget for tests."""
    return recipe.model_copy(update={"steps": 3, "windows_per_step": 2} | options)


def calibrate(workspace, folder, recipe, *, setting=W4A4K4V4, seed=0, code="code"):
    fitting = Fitting.end_to_end(setting=setting, seed=seed, recipe=recipe)
    calibrate_end_to_end(workspace.model, workspace.states, fitting, folder, fingerprint=code)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def after_each_step(monkeypatch, change):
    """Do something to the whole model after each step."""
    original = end_to_end._Training._step

    @torch.no_grad()
    def changed(self, *arguments):
        with torch.enable_grad():
            loss = original(self, *arguments)
        change(self.whole)
        return loss

    monkeypatch.setattr(end_to_end._Training, "_step", changed)
