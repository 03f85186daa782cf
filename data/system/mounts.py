"""Whether a folder lies on another machine."""

from __future__ import annotations

from pathlib import Path

# fuse.* covers sshfs and the object stores that are mounted (gcsfuse, s3fs, goofys, rclone).
_REMOTE = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "afs", "9p", "fuse")


def is_remote(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return whether a folder is on a network file system; False where nobody can tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        _, point, name, *_ = line.split(" ")
        # Mount points write a space as \040.
        place = Path(point.encode().decode("unicode_escape"))
        if len(place.parts) >= best and resolved.is_relative_to(place):
            best, kind = len(place.parts), name
    return kind.startswith(_REMOTE)
