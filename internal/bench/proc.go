package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of CPU times in /proc: USER_HZ, 100 on every Linux that Go runs on (proc(5)).
const ticksPerSecond = 100

// cpuSeconds is the CPU time a process has used, of all its threads, in user and kernel mode.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in brackets may hold anything; utime and stime are the 14th and 15th field (proc(5)).
	_, rest, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields)+2)
	}
	ticks := 0.0
	for _, f := range fields[11:13] {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += v
	}
	return ticks / ticksPerSecond, nil
}

// residentBytes is the resident memory of a process.
func residentBytes(pid int) (float64, error) {
	v, err := procField(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
	if err != nil {
		v, err = procField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	}
	return v * 1024, err
}

// writeCalls is how often a process has written to a file or socket.
func writeCalls(pid int) (float64, error) {
	return procField(fmt.Sprintf("/proc/%d/io", pid), "syscw:")
}

// readCalls is how often a process has read from a file or socket.
func readCalls(pid int) (float64, error) { return procField(fmt.Sprintf("/proc/%d/io", pid), "syscr:") }

// procField finds the number behind a name at the beginning of a line.
func procField(path, name string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return strconv.ParseFloat(f[0], 64)
			}
		}
	}
	return 0, fmt.Errorf("%s has no line %s", path, name)
}

// machine says where this runs; what cannot be found stays empty.
func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: runtime.GOARCH}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if kib, err := procField("/proc/meminfo", "MemTotal:"); err == nil {
		m.MemoryMiB = uint64(kib) / 1024
	}
	if n, err := procField("/proc/self/limits", "Max open files"); err == nil {
		m.OpenFiles = uint64(n)
	}
	if n, err := openFiles(); err == nil {
		m.OpenFiles = n
	}
	return m
}
