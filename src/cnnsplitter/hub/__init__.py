"""Models in the layout of the Hugging Face hub: a folder with a card, pushed and pulled."""

from cnnsplitter.hub.folder import load_folder, save_folder
from cnnsplitter.hub.remote import Pulled, Pushed, pull_from_hub, push_to_hub

__all__ = ["Pulled", "Pushed", "load_folder", "pull_from_hub", "push_to_hub", "save_folder"]
