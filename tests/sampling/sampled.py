"""`ddim.sample` with settings and inputs by name, over all views at a time where no window is given."""

from dataclasses import fields

from lightning_modules.sampling import ddim
from lightning_modules.sampling.prediction import Inputs
from lightning_modules.sampling.settings import Sampling

SETTINGS = {field.name for field in fields(Sampling)}
INPUTS = {field.name for field in fields(Inputs)}


def sample(denoiser, schedule, noise, views=1, **options):
    settings = {name: value for name, value in options.items() if name in SETTINGS}
    inputs = {name: value for name, value in options.items() if name in INPUTS}
    others = {name: value for name, value in options.items() if name not in SETTINGS | INPUTS}
    sampling = Sampling(**{"window": max(views, 1), "steps": 50} | settings)
    return ddim.sample(denoiser, schedule, noise, sampling, Inputs(**inputs), views=views, **others)
