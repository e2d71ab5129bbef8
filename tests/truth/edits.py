"""Random edits of a project, as users make them: of its YAML, its files, and its artefacts."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from oracle import Oracle

import kvmcompose
from golden.bench import PUBLIC_KEY, Bench, tiny_qcow2, tiny_raw

BRIDGES = ("br0", "br1", "br2")
SCRIPTS = ("a.sh", "b.sh", "c.sh")
TEMPLATES = ("domain.xml.j2", "network.xml.j2", "user-data.j2", "network-config.j2", "meta-data.j2")
_MOST = 6


def shipped_template(name: str) -> str:
    package = Path(kvmcompose.__file__).parent
    folder = next(each for each in (package / "templates", package.parent / "templates") if each.is_dir())
    return (folder / name).read_text(encoding="utf-8")


class Editor:
    """Edits one project, as determined by the seed."""

    def __init__(self, bench: Bench, oracle: Oracle, seed: int) -> None:
        self.bench = bench
        self.oracle = oracle
        self.random = random.Random(seed)  # noqa: S311 (edits, not secrets)
        self.folder = bench.folder
        self.names = 0
        self.machines: list[dict[str, Any]] = []
        self.external = "br0"
        self.connected = False
        self.hosts: list[dict[str, Any]] = [{"ip": "192.0.2.11", "is_main_host": True, "virt_type": "qemu"}]
        self.start()

    def start(self) -> None:
        for name in SCRIPTS:
            self.bench.write(name, f"#!/bin/sh\necho {name}\n")
        for name in ("files/one", "files/deep/two"):
            self.bench.write(name, f"{name}\n")
        self.bench.write("keys/id_ed25519", "not a key: warnings about it would only be in the way\n")
        for _ in range(3):
            self.machines.append(self.new_machine())
        self.write()

    def write(self) -> None:
        bridges: dict[str, Any] = {"bridges": [{"name": name} for name in BRIDGES]}
        if self.connected:
            bridges["bridge_connections"] = {"br0": "br1", "br1": "br2"}
        document = {"machines": self.machines, "network": {**bridges, "external_bridge": self.external}}
        self.bench.yaml.write_text(yaml.safe_dump(document, sort_keys=False))
        hosts = {f"host-{number}": host for number, host in enumerate(self.hosts)}
        config = {
            "testbed_host_ssh_config": hosts,
            "ssh_public_key_location": "keys/id_ed25519.pub",
            "ssh_private_key_location": "keys/id_ed25519",
        }
        self.bench.config.write_text(json.dumps(config))

    # --- machines ---------------------------------------------------------------------------------------

    def new_machine(self) -> dict[str, Any]:
        choose = self.random.choice
        self.names += 1
        # sometimes reuse a name, for another machine
        number = self.names if self.random.random() < 0.8 else self.random.randint(1, self.names)
        name = f"m{number}"
        if any(machine["name"] == name for machine in self.machines):
            name = f"n{self.names}"
        kind = choose(
            ("cloud", "cloud", "cloud", "file", "scaled", "scaled", "disk", "copy", "iso", "docker")
        )
        machine: dict[str, Any] = {"name": name, "interfaces": [{"bridge": choose(BRIDGES)}]}
        if kind == "docker":
            return {**machine, "docker": {"image": choose(("nginx:stable", "busybox"))}}
        body: dict[str, Any] = {"cpus": choose((1, 2)), "memory_mb": choose((64, 96, 128))}
        match kind:
            case "cloud" | "scaled":
                what: dict[str, Any] = {"cloud_image": {"name": choose(("debian_12", "ubuntu_22_04"))}}
            case "file":
                what = {"cloud_image": {"path": "disks/base.qcow2"}}
            case "disk" | "copy":
                what = {"existing_disk": {"path": "disks/base.raw", "driver_type": "raw"}}
                if kind == "copy":
                    what["existing_disk"]["create_deep_copy"] = True
            case _:
                what = {"iso_guest": {"path": "disks/install.iso", "expand_gigabytes": choose((1, 2))}}
        cloud = what.get("cloud_image")
        if cloud is not None and self.random.random() < 0.6:
            cloud["setup_script"] = choose(SCRIPTS)
        if cloud is not None and self.random.random() < 0.4:
            cloud["context"] = "files"
        machine["libvirt"] = body | {"libvirt_type": what}
        if kind == "scaled":
            self.scale(machine, self.random.randint(1, 3))
        return machine

    def scale(self, machine: dict[str, Any], count: int) -> None:
        machine.pop("interfaces", None)
        bridge = self.random.choice(BRIDGES)
        machine["libvirt"]["scaling"] = {
            "count": count,
            "interfaces": [{"bridge": bridge, "clones": list(range(count))}],
            "clone_setup": [{"script": self.random.choice(SCRIPTS), "clones": [count - 1]}],
        }

    def any_machine(self, fits: Callable[[dict[str, Any]], bool] = lambda _machine: True) -> dict[str, Any]:
        eligible = [machine for machine in self.machines if fits(machine)]
        return self.random.choice(eligible) if eligible else {}

    def add(self) -> str:
        if len(self.machines) >= _MOST:
            return self.remove()
        machine = self.new_machine()
        self.machines.insert(self.random.randint(0, len(self.machines)), machine)
        return f"add {machine['name']}"

    def remove(self) -> str:
        if len(self.machines) <= 1:
            return self.add()
        machine = self.machines.pop(self.random.randrange(len(self.machines)))
        return f"remove {machine['name']}"

    def rename(self) -> str:
        machine = self.any_machine()
        self.names += 1
        before, machine["name"] = machine["name"], f"r{self.names}"
        return f"rename {before} {machine['name']}"

    def resize(self) -> str:
        machine = self.any_machine(lambda each: "libvirt" in each)
        if not machine:
            return self.add()
        key, values = self.random.choice((("cpus", (1, 2, 3)), ("memory_mb", (64, 96, 128))))
        machine["libvirt"][key] = self.random.choice(values)
        return f"resize {machine['name']} {key}"

    def expand(self) -> str:
        machine = self.any_machine(
            lambda each: "cloud_image" in each.get("libvirt", {}).get("libvirt_type", {})
        )
        if not machine:
            return self.add()
        cloud = machine["libvirt"]["libvirt_type"]["cloud_image"]
        cloud["expand_gigabytes"] = self.random.choice((1, 2))
        return f"expand {machine['name']}"

    def move(self) -> str:
        machine = self.any_machine()
        bridge = self.random.choice(BRIDGES)
        if "interfaces" in machine:
            machine["interfaces"] = [{"bridge": bridge}]
        else:
            machine["libvirt"]["scaling"]["interfaces"][0]["bridge"] = bridge
        return f"move {machine['name']} to {bridge}"

    def rescale(self) -> str:
        machine = self.any_machine(lambda each: "scaling" in each.get("libvirt", {}))
        if not machine:
            return self.add()
        self.scale(machine, self.random.randint(1, 4))
        return f"rescale {machine['name']}"

    def shuffle(self) -> str:
        self.random.shuffle(self.machines)
        return "shuffle machines"

    def reword(self) -> str:
        """Write the YAML differently, with the same meaning."""
        self.write()
        self.bench.yaml.write_text(f"# {self.random.random()}\n{self.bench.yaml.read_text()}")
        return "reword"

    # --- hosts and networks -----------------------------------------------------------------------------

    def host(self) -> str:
        if len(self.hosts) > 1 and self.random.random() < 0.5:
            self.hosts.pop()
            return "remove a host"
        if len(self.hosts) < 3:
            address = f"192.0.2.{20 + len(self.hosts)}"
            self.hosts.append({"ip": address, "user": "nocloud", "is_main_host": False, "virt_type": "qemu"})
            return "add a host"
        self.hosts[-1]["virt_type"] = self.random.choice(("qemu", "kvm"))
        return "change a host"

    def rewire(self) -> str:
        self.connected = not self.connected
        return "rewire"

    def move_external(self) -> str:
        self.external = self.random.choice(BRIDGES)
        return f"external {self.external}"

    # --- files ------------------------------------------------------------------------------------------

    def script(self) -> str:
        name = self.random.choice(SCRIPTS)
        # of the same size, which is harder to detect
        self.bench.write(name, f"#!/bin/sh\necho {self.random.randint(100, 999)}\n")
        return f"edit {name}"

    def context(self) -> str:
        name = f"files/{self.random.choice(('one', 'deep/two', 'three', 'deep/four'))}"
        path = self.folder / name
        match self.random.choice(("write", "write", "remove", "mode")):
            case "remove" if path.exists():
                path.unlink()
                return f"remove {name}"
            case "mode" if path.exists():
                path.chmod(path.stat().st_mode ^ 0o111)
                return f"chmod {name}"
            case _:
                self.bench.write(name, f"{self.random.randint(0, 9)}\n")
                return f"write {name}"

    def template(self) -> str:
        name = self.random.choice(TEMPLATES)
        path = self.folder / "templates" / name
        if path.exists() and self.random.random() < 0.6:
            path.unlink()
            return f"remove template {name}"
        comment = self.random.choice(("", "one", "two"))
        mark = f"<!-- {comment} -->\n" if ".xml" in name else f"# {comment}\n"
        self.bench.write(f"templates/{name}", shipped_template(name) + (mark if comment else ""))
        return f"template {name} {comment!r}"

    def key(self) -> str:
        self.bench.write("keys/id_ed25519.pub", f"{PUBLIC_KEY.strip()}-{self.random.randint(0, 3)}\n")
        return "public key"

    def image(self) -> str:
        data = tiny_qcow2().ljust(2**18 + 4096 * self.random.randint(0, 3), b"\1")
        if self.random.random() < 0.3:
            (self.folder / "disks/base.qcow2").write_bytes(data)
            return "replace disks/base.qcow2"
        if self.random.random() < 0.5:
            (self.folder / "disks/base.raw").write_bytes(tiny_raw()[:-1] + bytes([self.random.randint(0, 3)]))
            return "replace disks/base.raw"
        image = self.bench.root / "another.qcow2"
        image.write_bytes(data)
        name = self.random.choice(("debian_12", "ubuntu_22_04"))
        added = self.bench.run("cloud-images", "add", name, str(image))
        assert added.status == 0, added.said
        return f"replace {name}"

    def touch(self) -> str:
        """Change only the times of inputs."""
        names = ["kvm-compose.yaml", "kvm-compose-config.json", "files/deep", "disks/base.raw", *SCRIPTS]
        name = self.random.choice(names)
        os.utime(self.folder / name)
        return f"touch {name}"

    def rewrite(self) -> str:
        """Replace an input by a copy of itself."""
        path = self.folder / self.random.choice(SCRIPTS)
        shutil.copy(path, copy := path.with_name("copy"))
        copy.replace(path)
        return f"rewrite {path.name}"

    # --- what was built ---------------------------------------------------------------------------------

    def any_artefact(self, *endings: str) -> Path | None:
        found = [
            path
            for path in sorted(self.oracle.built)
            if path.endswith(endings or ("",)) and (self.folder / path).is_file()
        ]
        return self.folder / self.random.choice(found) if found else None

    def delete(self) -> str:
        path = self.any_artefact()
        if path is None:
            return self.add()
        path.unlink()
        return f"delete {path.name}"

    def delete_everything(self) -> str:
        shutil.rmtree(self.folder / "artefacts", ignore_errors=True)
        return "delete artefacts/"

    def edit_by_hand(self) -> str:
        path = self.any_artefact(".xml", "state.json")
        if path is None:
            return self.add()
        data = path.read_bytes()
        if self.random.random() < 0.5:
            path.write_bytes(data + b"\n")
        else:  # of the same size, with the old times
            status = path.stat()
            path.write_bytes(data[:-2] + b"x\n" if data else b"x")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return f"edit {path.name} by hand"

    def damage(self) -> str:
        path = self.any_artefact()
        if path is None:
            return self.add()
        data = path.read_bytes()
        how = self.random.choice(("empty", "half", "scramble"))
        if path.is_symlink():  # what it leads to is the user's, and no longer a disk image when it is damaged
            path.unlink()
            return f"remove the link {path.name}"
        if path.suffix in (".xml", ".json"):
            how = "empty"  # anything else is a hand edit
        match how:
            case "empty":
                path.write_bytes(b"")
            case "half":
                os.truncate(path, len(data) // 2)
            case _:
                path.write_bytes(bytes(byte ^ 0x5A for byte in data[:512]) + data[512:])
        return f"{how} {path.name}"

    def use(self) -> str:
        """Grow a disk, as its guest does."""
        path = self.any_artefact(".img", ".qcow2")
        if path is None:
            return self.add()
        pattern = self.random.randint(1, 255)
        program = shutil.which("qemu-io")
        assert program is not None
        image = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(path)}}
        argv = [program, "-c", f"write -P {pattern} 0 64k", f"json:{json.dumps(image)}"]
        if subprocess.run(argv, check=False, capture_output=True).returncode:  # it is damaged
            with path.open("ab") as file:
                file.write(bytes([pattern]) * 4096)
        return f"use {path.name}"

    def touch_artefact(self) -> str:
        path = self.any_artefact()
        if path is None:
            return self.add()
        os.utime(path)
        return f"touch {path.name}"

    def copy_artefact(self) -> str:
        path = self.any_artefact()
        if path is None:
            return self.add()
        shutil.copy(path, copy := path.with_name("copy"))
        copy.replace(path)
        return f"replace {path.name} by a copy"

    def block(self) -> str:
        path = self.any_artefact()
        if path is None:
            return self.add()
        path.unlink()
        if self.random.random() < 0.5:
            (path / "mine").mkdir(parents=True)
            return f"a folder for {path.name}"
        path.symlink_to(self.random.choice(("nowhere", "../a.sh")))
        return f"a link for {path.name}"

    def unblock(self) -> str:
        for name in sorted(self.oracle.built):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            elif path.is_symlink() and self.oracle.built[name].policy != "link":
                path.unlink()
        return "unblock"

    def settle_conflicts(self) -> str:
        for new in sorted((self.folder / "artefacts").glob("*.new")):
            if self.random.random() < 0.5:
                new.replace(new.with_suffix(""))
            else:
                new.unlink()
        return "settle conflicts"

    def lose_ledger(self) -> str:
        ledger = self.folder / ".kvm-compose/ledger.sqlite"
        if self.random.random() < 0.5:
            shutil.rmtree(ledger.parent, ignore_errors=True)
            how = "delete the ledger"
        else:
            ledger.write_bytes(b"garbage" * 100)
            for extra in ledger.parent.glob("ledger.sqlite-*"):
                extra.unlink()
            how = "garbage in the ledger"
        self.oracle.lose()
        return how

    def forget(self) -> str:
        tasks = sorted({record.task for record in self.oracle.built.values()})
        known = [path for path in sorted(self.oracle.built) if path in self.wanted]
        tasks = sorted({self.oracle.built[path].task for path in known})
        if not tasks:
            return self.add()
        task = self.random.choice(tasks)
        forgotten = self.bench.run("forget", task)
        assert forgotten.status == 0, forgotten.said
        self.oracle.forget(task)
        return f"forget {task}"

    def wait(self) -> str:
        """Wait for the file system's clock to tick, so that the next build can rely on time stamps."""
        time.sleep(0.025)
        return "wait"

    #: The paths that the last build wanted.
    wanted: frozenset[str] = frozenset()

    def edit(self) -> str:
        """Do one edit, and return its description."""
        model = (
            self.add, self.add, self.remove, self.rename, self.resize, self.resize, self.expand, self.move,
            self.rescale, self.rescale, self.shuffle, self.reword, self.host, self.rewire, self.move_external,
            *[self.resize] * 5,  # the most frequent edit
        )  # fmt: skip
        other = (
            self.script, self.context, self.context, self.template, self.template, self.key, self.image,
            self.touch, self.rewrite, self.wait,
            self.delete, self.delete_everything, self.edit_by_hand, self.edit_by_hand, self.damage, self.use,
            self.touch_artefact, self.copy_artefact, self.block, self.unblock, self.settle_conflicts,
            self.lose_ledger, self.forget,
        )  # fmt: skip
        if self.random.random() < 0.45:
            edit = self.random.choice(model)
            said = edit()
            if edit != self.reword:
                self.write()
        else:
            machines = len(self.machines), self.names
            said = self.random.choice(other)()
            if (len(self.machines), self.names) != machines:
                self.write()
        return said
