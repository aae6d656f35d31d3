"""Data modules: streams of samples, collated into batches of references, targets, conditions and cameras."""

from datamodules.portrait_views import PortraitViewsDataModule
from datamodules.sources import SourceConfig

__all__ = ["PortraitViewsDataModule", "SourceConfig"]
