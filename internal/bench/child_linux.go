package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is how long a child may take to end in order, before it is killed.
const stopPatience = time.Minute

// child is a process of ours. It is ended by stop or kill, and by the system when this process ends.
type child struct {
	cmd  *exec.Cmd
	said *tail
	done chan struct{} // closed when it has ended
	err  error         // of its end; read after done
}

// startChild starts program with args; env is added to this process's own, of which nothing named SIGNALBOX_… is passed
// on: what is measured are the defaults. stdout nil keeps its last words.
func startChild(program string, args, env []string, stdin io.Reader, stdout io.Writer) (*child, error) {
	c := &child{said: new(tail), done: make(chan struct{})}
	c.cmd = exec.Command(program, args...) //nolint:noctx // it is ended in order by stop, not by a context's kill
	own := slices.DeleteFunc(c.cmd.Environ(), func(v string) bool { return strings.HasPrefix(v, "SIGNALBOX_") })
	c.cmd.Env = slices.Concat(own, env)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, c.said
	if stdout == nil {
		c.cmd.Stdout = c.said
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ended says whether the process has ended.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end, and kills it if it does not.
func (c *child) stop() error {
	if c.ended() {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) && !c.ended() {
		return errors.Join(fmt.Errorf("ask process %d to end: %w", c.pid(), err), c.kill())
	}
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-c.done:
		return nil
	case <-patience.C:
		return errors.Join(fmt.Errorf("process %d did not end within %v and was killed; it said: %s", c.pid(), stopPatience, c.said), c.kill())
	}
}

// kill ends the process at once (SIGKILL) and waits for it.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	<-c.done
	if c.ended() {
		return nil
	}
	return err
}

// tail keeps the last words of a process.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String gives the words.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// openFiles raises the limit of open files to what is allowed, and gives it.
func openFiles() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return 0, fmt.Errorf("raise the limit of open files: %w", err)
		}
	}
	return l.Cur, nil
}

// preciseSleep sleeps until t, to about 0.1 ms; Go's own timers may be a whole millisecond late on a busy machine.
// It gives up when ctx has ended before.
func preciseSleep(ctx context.Context, t time.Time) error {
	for {
		left := time.Until(t)
		if left <= 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		ts := unix.NsecToTimespec(int64(min(left, 50*time.Millisecond)))
		if err := unix.Nanosleep(&ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
