"""Keeps dynamic networks: in a file of safetensors, and on the Hugging Face Hub."""

from wenable.saving.network_file import load as load
from wenable.saving.network_file import save as save
