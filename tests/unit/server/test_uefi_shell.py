"""Whether a guest that is not ready is in the shell of its firmware, by its console."""

from __future__ import annotations

from kvmcompose.server.orchestrator.start import is_in_uefi_shell

#: What Debian's OVMF prints, shortened.
SHELL = """\
BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x2)/Pci(0x0,0x0): Not Found
BdsDxe: starting Boot0002 "EFI Internal Shell"
UEFI Interactive Shell v2.2
EDK II
Mapping table
     BLK0: Alias(s):
Shell> """


def test_only_one_that_waits_for_a_command_is_in_it() -> None:
    assert is_in_uefi_shell(SHELL)
    assert not is_in_uefi_shell(f"{SHELL}FS0:\\EFI\\loader.efi\nlogin: ")
    assert not is_in_uefi_shell("web login: PowerShell> ")
