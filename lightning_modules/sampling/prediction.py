"""One denoising step's prediction for all views of a path: guided, window by window, on one or more devices.

Shape letters: B portraits, V views of a portrait, N = B*V, H W latent size, S image side.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import Bank
from lightning_modules.sampling.windows import Window
from portraits.pixels import levels_to_pixels

BankAt = Callable[[float], Bank]
"""The bank to read at a timestep."""
Each = Callable[[Callable[[int], list[Tensor]], Iterable[int]], Iterable[list[Tensor]]]
"""`map`, or the same with several calls at once."""


@contextmanager
def lanes(count: int) -> Iterator[Each]:
    """A `map` that makes `count` calls at once, in a thread each."""
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count) as pool:
        yield pool.map


class Prediction:
    """ε (N, 4, H, W) of noised latents (N, 4, H, W) at a timestep.

    The windows of `plan` are dealt out to `denoisers`, copies of one on a device each; how many there are
    changes nothing. Raises InputError where bank or condition are not for these networks.
    """

    def __init__(
        self,
        denoisers: Sequence[Denoiser],
        bank: Bank | BankAt | None,
        condition: Tensor | None,
        guidance: float,
        views: int,
        plan: list[Window],
        each: Each = map,
    ) -> None:
        self.denoisers, self.guidance, self.views, self.plan, self.each = (
            denoisers,
            guidance,
            views,
            plan,
            each,
        )
        self.guided = guidance != 1 and (bank is not None or condition is not None)
        self.bank_at = bank if callable(bank) else None
        self.banks = [] if self.bank_at else self._everywhere(bank)
        self.condition = None if condition is None else condition.unflatten(0, (-1, views))
        # one window's hint serves all steps; a longer path's would take memory by its length
        self.hint = self._embed(denoisers[0], plan[0]) if len(plan) == 1 else None

    def __call__(self, latents: Tensor, timestep: float) -> Tensor:
        rows = latents.unflatten(0, (-1, self.views))  # (B, V, 4, H, W)
        banks = self.banks if self.bank_at is None else self._everywhere(self.bank_at(timestep))
        count = len(self.denoisers)

        def lane(number: int) -> list[Tensor]:
            plan = self.plan[number::count]
            return [self._guided(self.denoisers[number], banks[number], rows, timestep, w) for w in plan]

        made = list(self.each(lane, range(count)))
        blended = torch.zeros_like(rows)
        for index, window in enumerate(self.plan):
            epsilon = made[index % count][index // count].to(rows)
            blended[:, window.views] += window.weights.to(rows).view(-1, 1, 1, 1) * epsilon
        return blended.flatten(0, 1)

    @torch.no_grad()  # which holds for a thread, not for those it starts
    def _guided(
        self, denoiser: Denoiser, bank: Bank | None, rows: Tensor, timestep: float, window: Window
    ) -> Tensor:
        latents = rows[:, window.views].flatten(0, 1).to(denoiser.empty_prompt.device, denoiser.unet.dtype)
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        hint = self._embed(denoiser, window) if self.hint is None else self.hint
        views = window.stop - window.start
        epsilon = denoiser(latents, timesteps, bank, hint=hint, views=views).float()
        if self.guided:
            unconditional = denoiser(latents, timesteps, views=views).float()
            epsilon = unconditional + self.guidance * (epsilon - unconditional)
        return epsilon.unflatten(0, (len(rows), -1))

    def _embed(self, denoiser: Denoiser, window: Window) -> Tensor | None:
        if self.condition is None:
            return None
        condition = self.condition[:, window.views].flatten(0, 1).to(denoiser.empty_prompt.device)
        if condition.dtype == torch.uint8:
            condition = levels_to_pixels(condition)
        return denoiser.embed_condition(condition.to(denoiser.unet.dtype))

    def _everywhere(self, bank: Bank | None) -> list[Bank | None]:
        places = [denoiser.empty_prompt.device for denoiser in self.denoisers]
        return [None if bank is None else bank.to(place) for place in places]
