# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Simulated programs of a host: their changes are made in the tree of a recorded host.

The answers of apt, dpkg and systemd, and the state after their failures, match a real host.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boot
import early_boot
import nvidia
import recorded
from cards import boot_service, prepare
from gpu.problems import Problem
from host.facts import HostFacts, HostReader, gather
from system.commands import CommandError, Result

DAEMON, REGISTRAR = recorded.UNITS
NVIDIA_PACKAGE = re.compile(r"nvidia-vgpu-ubuntu[a-z0-9-]*")

_MAGIC = b"!<arch>\ndebian-binary"
_OK = Result(0, "", "")
_LSPCI_RECORD = "Slot:\t{}\nClass:\t{:04x}\nVendor:\t{:04x}\nDevice:\t{:04x}\n\n"


@dataclass
class _Failure:
    arguments: list[str]
    result: Result | None
    times: int | None


class Machine:
    """Runs no program, but changes the tree of a host as the program would.

    It has the signature and the errors of `commands.run`. A program or verb that is not simulated
    is an AssertionError.

    Args:
        root: the host's tree, as `recorded.build` wrote it.
        host: the data that the tree was built from; it is needed to load a driver and to reboot.

    Attributes:
        driver: the simulated NVIDIA driver, which replaces `sysfs.write`.
        commands: the commands that ran, in order, each as a tuple of arguments.
        architecture: the architecture that dpkg reports.
        archive: the packages that apt-get can install by name.
        mirror: the packages that `apt-get update` adds to the archive.
        control_groups: the folder of the tree that lists the processes of the units.
        unstoppable: the units that do not stop.
        failing: the units that start and exit immediately.
        sriov_no_ops: how often sriov-manage exits with 0 and changes nothing.
        has_stub: whether the kernel has pci-pf-stub.
        details: what lspci shows of the configuration space of all devices.
    """

    def __init__(self, root: Path, host: dict[str, Any] | None = None) -> None:
        self.root = root
        self.driver = nvidia.Driver(root, host or {"functions": []})
        self.commands: list[tuple[str, ...]] = []
        self.architecture = "amd64"
        kernel = (root / "proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
        self.headers = f"linux-headers-{kernel}"
        self.archive = {self.headers, f"linux-modules-extra-{kernel}", "dkms", "pciutils"}
        self.mirror: set[str] = set()
        self.control_groups = "sys/fs/cgroup"
        self.unstoppable: set[str] = set()
        self.failing: set[str] = set()
        self.sriov_no_ops = 0
        self.has_stub = True
        self.details = ""
        self._failures: list[_Failure] = []
        self._built_here: set[str] = set()  # packages whose module DKMS builds
        self._broken: set[str] = set()  # packages whose postinst fails
        self._blacklists_nouveau = False
        self._running: set[str] = set()
        if self._is_loaded:
            self._run_unit(DAEMON)
        self.provide("usr/bin/lspci", "usr/sbin/update-initramfs")

    @property
    def host(self) -> dict[str, Any]:
        """The present data of the host."""
        return self.driver.host

    @host.setter
    def host(self, host: dict[str, Any]) -> None:
        self.driver.host = host

    def __call__(
        self, *argv: str, timeout: float = 60.0, check: bool = True, binary: bool = False
    ) -> Result:
        assert timeout > 0
        self.commands.append(argv)
        result = self._run(argv)
        if result is None:
            raise CommandError(argv, "No such file or directory")
        if check and result.returncode != 0:
            lines = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
            raise CommandError(argv, lines[-1], result)
        return result

    def fail(
        self,
        command: str,
        *,
        output: str = "",
        stdout: str = "",
        returncode: int | None = 1,
        times: int | None = None,
    ) -> None:
        """Make a command fail without any change.

        Args:
            command: its arguments in order, `apt-get install`; others may be between them.
            output: what it writes to standard error.
            stdout: what it writes to standard output.
            returncode: its exit code; None means that the program is missing.
            times: how often it fails; None means until `repair`.
        """
        result = None if returncode is None else Result(returncode, stdout, output)
        self._failures.append(_Failure(command.split(), result, times))

    def repair(self, command: str) -> None:
        """Make a command succeed again."""
        self._failures = [
            failure for failure in self._failures if failure.arguments != command.split()
        ]

    def did(self, command: str) -> list[tuple[str, ...]]:
        """Return the commands that have these arguments in this order."""
        return [argv for argv in self.commands if _has_arguments(argv, command.split())]

    def provide(self, *programs: str) -> None:
        """Put programs into the tree, `usr/sbin/dracut`."""
        for program in programs:
            path = self.root / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)

    @property
    def facts(self) -> HostFacts:
        """The facts that the charm reads on this host now."""
        return gather(self.root)

    def assigned_types(self, card: int = 0) -> dict[str, str]:
        """Return the types that the charm assigned to the virtual functions of a card."""
        pairs = self.facts.cards[card].assigned_types
        return {str(function): type_id for function, type_id in pairs}

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Create a mediated device through the driver, as Nova does for a guest."""
        types = self.root / "sys/bus/pci/devices" / parent / "mdev_supported_types"
        self.driver.write(types / type_id / "create", uuid)

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device, as the end of a guest does."""
        recorded.remove_mdev(self.root, uuid)

    def define_guest(self, *devices: str, name: str = "instance-00000001") -> Path:
        """Define a guest of libvirt, running or not.

        Args:
            devices: PCI addresses of virtual functions, UUIDs of mediated devices.
            name: the guest; its earlier definition is replaced.
        """
        return recorded.define_guest(self.root, name, *devices)

    def prepare_cards(self, mapping: str, **options: Any) -> tuple[Problem, ...]:
        """Prepare the cards for a mapping, as a boot does; return what fails."""
        host = HostReader(self.root)
        problems = prepare.prepare_cards(host, self, mapping, **options)
        return (*problems, *prepare.restore_guests(host))

    def make_deb(
        self,
        path: Path,
        *,
        name: str = "nvidia-vgpu-ubuntu-570",
        version: str = "570.172.07",
        architecture: str = "amd64",
        dkms: bool = True,
        depends: str = "",
        postinst_fails: bool = False,
        truncated: bool = False,
    ) -> Path:
        """Write a package for the simulated `dpkg-deb` and `apt-get`, and return its path."""
        fields = {
            "Package": name,
            "Version": version,
            "Architecture": architecture,
            **({"Depends": depends} if depends else {}),
        }
        data = {
            "fields": fields,
            "dkms": dkms,
            "postinst_fails": postinst_fails,
            "truncated": truncated,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_MAGIC + json.dumps(data).encode())
        return path

    def crash(self, unit: str) -> None:
        """End the processes of a unit."""
        self._running.discard(unit)
        self._show_processes(unit)

    def add_package(self, name: str, version: str) -> None:
        """Install a package of Ubuntu's archive, by hand."""
        self._write_packages({**self.packages(), name: (version, "installed")})

    def packages(self) -> dict[str, tuple[str, str]]:
        """Return the version and the state of the packages in the status of dpkg."""
        text = (self.root / "var/lib/dpkg/status").read_text(encoding="utf-8")
        stanza = re.compile(
            r"^Package: (\S+)\nStatus: \S+ \S+ (\S+)\n(?:.*\n)*?Version: (.*)$", re.M
        )
        return {name: (version, state) for name, state, version in stanza.findall(text)}

    def reboot(self, *, starts: bool = True) -> None:
        """Reboot the host: the cards get the installed driver, or nouveau.

        Args:
            starts: whether the boot service, if it is installed, is started.
        """
        package = self._driver_package()
        self.host = {**self.host, "driver": {"loaded": package[1]} if package else None}
        driver = "nvidia" if package else None if self._blacklists_nouveau else "nouveau"
        self.driver.boot()
        self._rebuild_sys(None)
        if starts and self._wants(boot_service.EARLY_SERVICE).is_symlink():
            early_boot.main(self.root, self)
        self._rebuild_sys(driver)
        self._running.clear()
        if package is not None and not self._is_masked(DAEMON):
            self._run_unit(DAEMON)
        shutil.rmtree(self.root / "run", ignore_errors=True)
        if starts and self._wants(boot_service.SERVICE).is_symlink():
            self._start(boot_service.SERVICE)

    def _run(self, argv: tuple[str, ...]) -> Result | None:
        for failure in self._failures:
            if failure.times != 0 and _has_arguments(argv, failure.arguments):
                failure.times = None if failure.times is None else failure.times - 1
                return failure.result
        program = re.sub(r"\W", "_", argv[0].rsplit("/", 1)[-1])
        simulation = getattr(self, f"_{program}", None)
        assert simulation is not None, f"not simulated: {argv}"
        return simulation(argv)

    # sh

    def _sh(self, argv: tuple[str, ...]) -> Result:
        option, script, text, path = argv[1:]
        assert (option, script) == ("-c", 'echo "$0" >"$1"'), argv
        try:
            self.driver.write(path, text)
        except OSError as error:
            return Result(2, "", f"sh: 1: cannot create {path}: {error.strerror}\n")
        return _OK

    # lspci

    def _lspci(self, argv: tuple[str, ...]) -> Result | None:
        if not (self.root / "usr/bin/lspci").exists():
            return None
        if argv[1:] == ("-Dvvv",):
            return Result(0, self.details, "")
        assert argv[1:4] == ("-A", "linux-sysfs", "-O"), "would list the real host"
        assert argv[5:] == ("-Dvmmn", "-d", "10de:")
        devices = Path(argv[4].split("=", 1)[1]) / "devices"
        output = ""
        for name in sorted(os.listdir(devices)):
            values = []
            for attribute in ("class", "vendor", "device"):
                try:
                    values.append(int((devices / name / attribute).read_text(), 16))
                except OSError:
                    path = devices / name / attribute
                    return Result(1, "", f"lspci: Cannot open {path}: No such file or directory\n")
            if values[1] == 0x10DE:
                output += _LSPCI_RECORD.format(name, values[0] >> 8, *values[1:])
        return Result(0, output, "")

    # dpkg, dpkg-deb, apt-get, apt-cache

    def _dpkg(self, argv: tuple[str, ...]) -> Result:
        if argv[1:] == ("--print-architecture",):
            return Result(0, f"{self.architecture}\n", "")
        assert argv[-2:] == ("--configure", "-a"), argv
        shutil.rmtree(self.root / "var/lib/dpkg/updates", ignore_errors=True)
        packages = self.packages()
        for name, (version, state) in packages.items():
            if state in ("unpacked", "half-configured"):
                if name in self._broken:
                    return Result(1, "", _postinst_error(name))
                packages[name] = (version, "installed")
        self._write_packages(packages)
        return _OK

    def _dpkg_deb(self, argv: tuple[str, ...]) -> Result:
        verb, path = argv[1:]
        deb = _read_deb(Path(path))
        if deb is None or (deb["truncated"] and verb != "--ctrl-tarfile"):
            return Result(2, "", "dpkg-deb: error: unexpected end of file or stream\n")
        if verb == "--ctrl-tarfile":
            rows = [f"{key}: {value}\n" for key, value in deb["fields"].items()]
            return Result(0, control_archive("".join(rows)), "")
        assert verb == "--contents", argv
        names = ["usr/bin/nvidia-vgpu-mgr"]
        if deb["dkms"]:
            names.append(f"usr/src/nvidia-{deb['fields']['Version']}/dkms.conf")
        row = "-rw-r--r-- root/root 1 2026-01-01 00:00 ./{}\n"
        return Result(0, "".join(row.format(name) for name in names), "")

    def _apt_cache(self, argv: tuple[str, ...]) -> Result:
        assert argv[1] == "policy", argv
        packages = self.packages()
        output = ""
        for name in argv[2:]:
            version, state = packages.get(name, ("", ""))
            installed = version if state == "installed" else "(none)"
            candidate = "1.0" if name in self.archive else installed
            if name in self.archive or name in packages:
                output += f"{name}:\n  Installed: {installed}\n  Candidate: {candidate}\n"
                output += "  Version table:\n     1.0 500\n"
        return Result(0, output, "")

    def _apt_get(self, argv: tuple[str, ...]) -> Result:
        arguments = [argument for argument in argv[1:] if not argument.startswith("-")]
        verb, *names = [argument for argument in arguments if "::" not in argument]
        if verb == "update":
            self.archive |= self.mirror
            return _OK
        updates = self.root / "var/lib/dpkg/updates"
        if updates.is_dir() and any(updates.iterdir()):
            text = "E: dpkg was interrupted, you must manually run 'sudo dpkg --configure -a'"
            return Result(100, "", f"{text} to correct the problem.\n")
        if verb == "remove":
            return self._remove(names)
        assert verb == "install", argv
        if "--simulate" in argv:
            return _OK
        for name in names:
            result = (
                self._install_deb(name, argv) if "/" in name else self._install_name(name, argv)
            )
            if result.returncode != 0:
                return result
        return _OK

    def _install_name(self, name: str, argv: tuple[str, ...]) -> Result:
        if self.packages().get(name) == ("1.0", "half-installed") and "--reinstall" not in argv:
            return _OK  # apt counts it as installed
        if name not in self.archive:
            return Result(100, "", f"E: Unable to locate package {name}\n")
        self._write_packages({**self.packages(), name: ("1.0", "installed")})
        programs = {"pciutils": "usr/bin/lspci", "mdevctl": "usr/sbin/mdevctl"}
        if name in programs:
            self.provide(programs[name])
        return _OK

    def _install_deb(self, path: str, argv: tuple[str, ...]) -> Result:
        if not path.startswith("/") or not path.endswith(".deb"):
            return Result(100, "", f"E: Unsupported file {path} given on commandline\n")
        deb = _read_deb(Path(path))
        if deb is None or deb["truncated"]:
            return Result(100, "", "E: Invalid archive member header\n")
        packages, fields = self.packages(), deb["fields"]
        name, version = fields["Package"], fields["Version"]
        for other, (_, state) in packages.items():
            if other != name and NVIDIA_PACKAGE.fullmatch(other) and state != "config-files":
                text = f" trying to overwrite '/usr/bin/nvidia-smi', also in package {other}\n"
                return Result(100, f"dpkg: error processing archive {path}:\n{text}", "")
        installed, state = packages.get(name, ("", ""))
        installed = "" if state == "config-files" else installed
        if installed == version and "--reinstall" not in argv:
            if state != "installed" and name in self._broken:  # the old postinst runs again
                return Result(100, _postinst_error(name), "E: Sub-process /usr/bin/dpkg failed\n")
            self._write_packages({**packages, name: (version, "installed")})
            return _OK
        if installed > version and "--allow-downgrades" not in argv:
            text = "E: Packages were downgraded and -y was used without --allow-downgrades.\n"
            return Result(100, "", text)
        return self._unpack(deb, packages)

    def _unpack(self, deb: dict[str, Any], packages: dict[str, tuple[str, str]]) -> Result:
        name, version = deb["fields"]["Package"], deb["fields"]["Version"]
        for names, is_listed in (
            (self._built_here, deb["dkms"]),
            (self._broken, deb["postinst_fails"]),
        ):
            names.add(name) if is_listed else names.discard(name)
        units = self.root / "lib/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        self.provide(recorded.SRIOV_MANAGE)
        for unit in recorded.UNITS:
            (units / f"{unit}.service").write_text("[Service]\nExecStart=/bin/true\n")
        state = "half-configured" if deb["postinst_fails"] else "installed"
        self._write_packages({**packages, name: (version, state)})
        if deb["postinst_fails"]:
            return Result(100, _postinst_error(name), "E: Sub-process /usr/bin/dpkg failed\n")
        return _OK

    def _remove(self, names: list[str]) -> Result:
        packages = self.packages()
        for name in names:
            if name not in packages:
                return Result(100, "", f"E: Unable to locate package {name}\n")
            packages[name] = (packages[name][0], "config-files")
            if NVIDIA_PACKAGE.fullmatch(name):
                for unit in recorded.UNITS:
                    (self.root / f"lib/systemd/system/{unit}.service").unlink(missing_ok=True)
                    self.crash(unit)
        self._write_packages(packages)
        return _OK

    def _write_packages(self, packages: dict[str, tuple[str, str]]) -> None:
        always = ("adduser", "zstd")  # recorded.write_dpkg_status adds these
        rows = [
            (name, *version_and_state)
            for name, version_and_state in packages.items()
            if name not in always
        ]
        recorded.write_dpkg_status(self.root, rows)

    def _driver_package(self) -> tuple[str, str] | None:
        for name, (version, state) in self.packages().items():
            if NVIDIA_PACKAGE.fullmatch(name) and state == "installed":
                return name, version
        return None

    # sriov-manage

    def _sriov_manage(self, argv: tuple[str, ...]) -> Result:
        verb, address = argv[1:]
        if self.sriov_no_ops:  # some releases exit with 0 without any effect
            self.sriov_no_ops -= 1
            return Result(0, f"Enabling VFs on {address}\n", "")
        code, text = self.driver.sriov_manage(verb, address)
        return Result(code, text, "")

    def _nvidia_smi(self, argv: tuple[str, ...]) -> Result | None:
        if not self._is_loaded:
            return Result(9, "NVIDIA-SMI has failed\n", "")
        code, text = self.driver.nvidia_smi(*argv[1:])
        return Result(code, text, "")

    # modprobe, update-initramfs, dracut

    @property
    def _is_loaded(self) -> bool:
        return (self.root / "sys/module/nvidia/version").exists()

    def _modprobe(self, argv: tuple[str, ...]) -> Result:
        if argv[1:] == ("--dry-run", "pci-pf-stub"):
            return Result(0 if self.has_stub else 1, "", "")
        if argv[1:] == ("vfio-pci",):
            return _OK if self.driver.has_vfio else Result(1, "", "modprobe: FATAL: not found\n")
        package = self._driver_package()
        is_built = package and (
            package[0] not in self._built_here or self.headers in self.packages()
        )
        if package is None or not is_built:
            text = f"modprobe: FATAL: Module {argv[1]} not found in directory /lib/modules\n"
            return Result(1, "", text)
        if argv[1] == "nvidia" and not self._is_loaded:
            path = self.root / "sys/module/nvidia/version"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{package[1]}\n", encoding="ascii")
        return _OK

    def _update_initramfs(self, _: tuple[str, ...]) -> Result | None:
        if not (self.root / "usr/sbin/update-initramfs").exists():
            return None
        return self._write_initramfs()

    def _dracut(self, _: tuple[str, ...]) -> Result | None:
        if not (self.root / "usr/bin/dracut").exists():
            return None
        return self._write_initramfs()

    def _write_initramfs(self) -> Result:
        files = (self.root / "etc/modprobe.d").glob("*.conf")
        self._blacklists_nouveau = any("blacklist nouveau" in file.read_text() for file in files)
        return _OK

    # systemd

    def _systemctl(self, argv: tuple[str, ...]) -> Result:
        verb, *units = argv[1:]
        if verb == "daemon-reload":
            return _OK
        if verb == "is-active":
            is_active = units[0] in self._running
            return Result(0, "active\n", "") if is_active else Result(3, "inactive\n", "")
        action = {
            "start": self._start,
            "restart": self._start,
            "stop": self._stop,
            "enable": self._enable,
            "disable": self._disable,
            "mask": self._mask,
            "unmask": self._unmask,
        }[verb]
        for unit in units:
            result = action(unit)
            if result.returncode != 0:
                return result
        return _OK

    def _start(self, unit: str) -> Result:
        if unit == boot_service.SERVICE:
            code = boot.main(self.root, self)
            return Result(code, "", f"Job for {unit} failed.\n" if code else "")
        if self._is_masked(unit):
            text = f"Failed to start {unit}.service: Unit {unit}.service is masked.\n"
            return Result(1, "", text)
        if not (self.root / f"lib/systemd/system/{unit}.service").exists():
            text = f"Failed to start {unit}.service: Unit {unit}.service not found.\n"
            return Result(5, "", text)
        if unit == REGISTRAR and self._is_loaded:
            self.host = {**self.host, "driver": {"loaded": self._loaded()}}
            self._rebuild_sys("nvidia")
        self.crash(unit)
        if unit == DAEMON and self._is_loaded:
            self._run_unit(unit)
        return _OK

    def _stop(self, unit: str) -> Result:
        if unit not in self.unstoppable:
            self.crash(unit)
        return _OK

    def _enable(self, unit: str) -> Result:
        if self._is_masked(unit):
            return Result(1, "", f"Failed to enable unit: Unit file {unit}.service is masked.\n")
        link = self._wants(unit)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(f"/lib/systemd/system/{unit}.service")
        return _OK

    def _disable(self, unit: str) -> Result:
        if self._wants(unit).is_symlink():
            self._wants(unit).unlink()
        return _OK

    def _mask(self, unit: str) -> Result:
        link = self._mask_link(unit)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to("/dev/null")
        return _OK

    def _unmask(self, unit: str) -> Result:
        if self._is_masked(unit):
            self._mask_link(unit).unlink()
        return _OK

    def _systemd_run(self, _: tuple[str, ...]) -> Result:
        return _OK

    def _run_unit(self, unit: str) -> None:
        if unit not in self.failing:
            self._running.add(unit)
        self._show_processes(unit)

    def _show_processes(self, unit: str) -> None:
        path = self.root / self.control_groups / f"system.slice/{unit}.service/cgroup.procs"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("4242\n" if unit in self._running else "")

    def _is_masked(self, unit: str) -> bool:
        return self._mask_link(unit).is_symlink()

    def _mask_link(self, unit: str) -> Path:
        return self.root / f"etc/systemd/system/{unit}.service"

    def _wants(self, unit: str) -> Path:
        return self.root / f"etc/systemd/system/multi-user.target.wants/{unit}.service"

    def _loaded(self) -> str:
        return (self.root / "sys/module/nvidia/version").read_text(encoding="ascii").strip()

    def _rebuild_sys(self, driver: str | None) -> None:
        """Write sysfs again, with another driver on the cards or with none."""
        functions = [
            {**function, "driver": driver}
            if function.get("types") and function["address"] not in self.driver.overrides
            else function
            for function in self.host["functions"]
        ]
        self.host = {**self.host, "functions": functions}
        shutil.rmtree(self.root / "sys")
        recorded.build_sys(self.root, self.host)
        for unit in self._running:
            self._show_processes(unit)


def control_archive(control: str) -> str:
    """Return an archive with a control file as dpkg-deb prints it, each character one byte."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in (
            ("./", None),
            ("./control", control.encode(errors="replace")),
            ("./postinst", b"\xff"),
        ):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if text is None else tarfile.REGTYPE
            member.size = len(text or b"")
            archive.addfile(member, io.BytesIO(text or b""))
    return stream.getvalue().decode("latin-1")


def _has_arguments(argv: tuple[str, ...], arguments: list[str]) -> bool:
    rest = iter(argv)
    return argv[0] == arguments[0] and all(argument in rest for argument in arguments)


def _read_deb(path: Path) -> dict[str, Any] | None:
    data = path.read_bytes()
    try:
        return json.loads(data[len(_MAGIC) :]) if data.startswith(_MAGIC) else None
    except ValueError:
        return None


def _postinst_error(name: str) -> str:
    return f"dpkg: error processing package {name} (--configure):\n installed {name} package\n"
