"""Guest images from recipes: kernel, initial ramdisk and root disk, by Debian's own tools.

    from copper.image.build import build, load
    built = build(load("micro"), agent=Path("build/guest/gridcentric"), cache=Path("build/cache"))

    qemu-system-x86_64 -M q35 -m {built.memory_mib} -kernel {built.kernel} -initrd {built.initrd}
        -append {built.cmdline} -drive if=virtio,file={an overlay over built.disk} …

The first build of a recipe takes seconds (micro) or a minute (debian-12); one whose inputs are the
same takes about a second. Booting and freezing what came out is the engine's part.
"""

from copper.image.build.builder import build
from copper.image.build.built import Built
from copper.image.build.progress import Progress
from copper.image.build.recipes import Recipe, load, names, recipes_dir

__all__ = ["Built", "Progress", "Recipe", "build", "load", "names", "recipes_dir"]
