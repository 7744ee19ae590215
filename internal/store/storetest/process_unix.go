//go:build unix

package storetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endTimeout is how long a server may take to end.
const endTimeout = 60 * time.Second

// process is a running server.
type process struct {
	pid   int
	name  string
	ended chan struct{}
}

// nobody gives the number of the user as whom servers run, 0 for the user of the tests.
func nobody() (uid, gid int, err error) {
	if os.Getuid() != 0 {
		return 0, 0, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// own gives a file or directory to the servers' user.
func own(path string) error {
	uid, gid, err := nobody()
	if err != nil || uid == 0 {
		return err
	}
	return os.Chown(path, uid, gid)
}

func credentials() (*syscall.SysProcAttr, error) {
	uid, gid, err := nobody()
	if err != nil || uid == 0 {
		return &syscall.SysProcAttr{}, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil //nolint:gosec // numbers of a user
}

// spawn starts a server whose output goes to the file log.
func spawn(log, name string, args []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // no secret in it
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // a test's own words; it is ended by signal
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.Env = append(os.Environ(), "TZ=UTC")
	if cmd.SysProcAttr, err = credentials(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	dieWithParent(cmd.SysProcAttr)
	p := &process{name: name, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The system ends the server when the thread that started it ends: this one stays.
		runtime.LockOSThread()
		defer close(p.ended)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // whoever stops it says how
		}
		_ = out.Close()
	}()
	return p, <-started
}

// hard is the signal that ends a server at once.
func (p *process) hard() syscall.Signal {
	if filepath.Base(p.name) == "postgres" {
		return syscall.SIGQUIT // its children go with it, and nothing is written
	}
	return syscall.SIGKILL
}

func (p *process) resume() error { return p.signalAll(syscall.SIGCONT) }

// end ends the server if it still runs; what it holds is not needed any more.
func (p *process) end() error {
	_ = p.resume() // it may be paused, or gone
	return p.stop(p.hard())
}

func (p *process) stop(sig syscall.Signal) error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(endTimeout):
		return fmt.Errorf("%s (process %d) did not end by %v in %v", p.name, p.pid, sig, endTimeout)
	}
}

// signalAll signals the server and its children.
func (p *process) signalAll(sig syscall.Signal) error {
	all := append([]int{p.pid}, childrenOf(p.pid)...)
	for i, pid := range all {
		if err := syscall.Kill(pid, sig); err != nil && (i == 0 || !errors.Is(err, syscall.ESRCH)) {
			return err
		}
	}
	return nil
}

// pause stops the server and its children, and returns when all their threads stand still.
func (p *process) pause() error {
	if err := p.signalAll(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(endTimeout)
	for {
		still := true
		for _, pid := range append([]int{p.pid}, childrenOf(p.pid)...) {
			if !stopped(pid) {
				still = false
				_ = syscall.Kill(pid, syscall.SIGSTOP) // it may have been born in between
			}
		}
		if still {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("%s (process %d) did not stand still in %v", p.name, p.pid, endTimeout)
		}
	}
}

// stopped says whether all threads of a process stand still, as far as /proc knows.
func stopped(pid int) bool {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		if _, rest, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(rest, "T") && !strings.HasPrefix(rest, "Z") {
			return false
		}
	}
	return true
}

// childrenOf reads them from /proc; a server without /proc has threads or is not paused whole.
func childrenOf(parent int) []int {
	var all []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest) // state, parent…
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil {
			all = append(all, pid)
		}
	}
	return all
}
