package store_test

import (
	"os"
	"syscall"
	"testing"
)

// tinyDisk mounts a disk of 8 MiB at dir; grow makes it larger. ok is false when that is not
// allowed here.
func tinyDisk(t *testing.T, dir string) (grow func(), ok bool) {
	t.Helper()
	if os.Getuid() != 0 || syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m") != nil {
		return nil, false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return func() {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}, true
}
