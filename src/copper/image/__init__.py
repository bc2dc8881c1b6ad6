"""Images: freeze and thaw, memory layers, disks, the store, and how guest images are built."""
