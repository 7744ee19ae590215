package bench

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what this process has used up to now.
type usage struct {
	cpu     time.Duration
	written float64 // bytes that went to a disk, as the system counts them
}

func used() (u usage, err error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return u, fmt.Errorf("read the CPU time of this process: %w", err)
	}
	u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	u.written, err = procField("/proc/self/io", "write_bytes:")
	return u, err
}

const mib = 1 << 20

// peakMiB is the largest resident memory since the start, or since forgetPeak.
func peakMiB() (float64, error) {
	v, err := procField("/proc/self/status", "VmHWM:")
	return v * 1024 / mib, err
}

// forgetPeak gives free memory back and begins anew with peakMiB; it gives what is resident now.
func forgetPeak() (float64, error) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0, fmt.Errorf("begin a new peak of memory: %w", err)
	}
	v, err := procField("/proc/self/status", "VmRSS:")
	return v * 1024 / mib, err
}

// evict makes the system forget what it has of a database's files in memory.
func evict(path string) error {
	for _, name := range []string{path, path + "-wal"} {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = unix.Fdatasync(int(f.Fd()))
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", name, err)
		}
	}
	return nil
}
