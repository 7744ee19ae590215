package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a pseudo terminal: what a person types and sees, and the end that a program has.
type pty struct {
	t      *testing.T
	person *os.File
	end    *os.File
	before unix.Termios

	mu    sync.Mutex
	shown strings.Builder
	more  chan struct{}
	done  sync.WaitGroup
}

func newPty(t *testing.T) *pty {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	end, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 200}); err != nil {
		t.Fatal(err)
	}
	p := &pty{t: t, person: person, end: end, more: make(chan struct{}, 1)}
	p.before = p.mode()
	p.done.Go(p.watch)
	t.Cleanup(func() {
		if err := end.Close(); err != nil { // the person reads an error then
			t.Error(err)
		}
		p.done.Wait()
		if err := person.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pty) mode() unix.Termios {
	p.t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.end.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *mode
}

func (p *pty) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := p.person.Read(buf)
		p.mu.Lock()
		p.shown.Write(buf[:n])
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (p *pty) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// expect types keys, and waits until the texts are shown in this order behind that.
func (p *pty) expect(keys string, texts ...string) {
	p.t.Helper()
	at := len(p.screen())
	if keys == "" {
		at = 0
	}
	if _, err := p.person.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
	deadline := time.After(patience)
	for _, text := range texts {
		for {
			rest := p.screen()[at:]
			if i := strings.Index(rest, text); i >= 0 {
				at += i + len(text)
				break
			}
			select {
			case <-p.more:
			case <-deadline:
				p.t.Fatalf("%q was not shown behind the keys %q; the screen: %q", text, keys, p.screen())
			}
		}
	}
}

// play plays on the terminal, until something ends it.
func (p *pty) play(ctx context.Context, s *station, args ...string) <-chan int {
	ended := make(chan int, 1)
	program := Program{Stdin: p.end, Stdout: p.end, Stderr: p.end, Env: []string{"SIGNALBOX_DATA=" + s.dir, "NO_COLOR=1"}}
	go func() { ended <- program.Run(ctx, append([]string{"replay"}, args...)) }()
	return ended
}

func (p *pty) wantEnd(ended <-chan int, code int) {
	p.t.Helper()
	select {
	case got := <-ended:
		if got != code {
			p.t.Errorf("it ended with %d, want %d; the screen: %q", got, code, p.screen())
		}
	case <-time.After(patience):
		p.t.Fatalf("it does not end; the screen: %q", p.screen())
	}
	if after := p.mode(); after != p.before {
		p.t.Errorf("the terminal was %+v and is %+v", p.before, after)
	}
}

// newPast is a running hub with a message each ten seconds of an hour.
func newPast(t *testing.T) *station {
	t.Helper()
	s := newStation(t)
	var file strings.Builder
	for i := range 360 {
		fmt.Fprintf(&file, `{"device":"esp01","time":%d,"object":{"n":"<%d>"}}`+"\n", 1_704_067_200_000+10_000*i, i)
	}
	name := filepath.Join(t.TempDir(), "past.ndjson")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("import", name, "--create", "--type", "box").want(t, ExitOK)
	s.serve()
	return s
}

func TestReplayKeys(t *testing.T) {
	s := newPast(t)
	p := newPty(t)
	ended := p.play(t.Context(), s, "--pace", "time", "--speed", "1")
	p.expect("", "n=<0>", "\n", "playing", "1x", "space: pause")
	if mode := p.mode(); mode.Lflag&(unix.ICANON|unix.ECHO) != 0 {
		t.Error("the terminal waits for the end of a line, or shows what is typed")
	}
	p.expect(" ", "paused")
	p.expect("+", "paused", "2x")
	p.expect("-", "paused", "1x")
	// It goes back to the beginning, and from there on by whole steps.
	p.expect("\x1b[D\x1b[C ", "playing", "n=<1>")
	p.expect(" ", "paused")
	p.expect("\x1b[D\x1b[D\x1b[D\x1b[C\x1b[C\x1b[C\x1b[C\x1b[C ", "playing", "n=<5>")
	p.expect("++++++++++", "max", "n=<359>", "The replay has ended; messages:")
	p.wantEnd(ended, ExitOK)
	if strings.Contains(p.screen(), "stopped") {
		t.Errorf("the screen: %q", p.screen())
	}
}

// TestReplayNarrow: on a terminal of 80 columns all keys are named, and the place is told by
// what there is to play, though no end was given.
func TestReplayNarrow(t *testing.T) {
	s := newPast(t)
	p := newPty(t)
	if err := unix.IoctlSetWinsize(int(p.end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	ended := p.play(t.Context(), s, "--pace", "time", "--speed", "1")
	p.expect("", "n=<0>", "playing", "  0 %", "q: end")
	p.expect(" ", "paused", "q: end")
	p.expect("+++++++++", "paused", "1000x", "q: end")
	p.expect("\x1b[C", "paused", "100 %", "q: end")
	p.expect(" ", "n=<359>", "The replay has ended; messages:")
	p.wantEnd(ended, ExitOK)
}

// TestKeyboardGoneOn: a process that goes on (fg) as it ends leaves the terminal as it was.
func TestKeyboardGoneOn(t *testing.T) {
	p := newPty(t)
	for range 10 {
		k, err := openKeyboard(int(p.end.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		var signals sync.WaitGroup
		stop := make(chan struct{})
		signals.Go(func() {
			for {
				select {
				case k.resumed <- unix.SIGCONT:
				case <-stop:
					return
				}
			}
		})
		p.expect("x") // it wakes the reader
		if err := k.close(); err != nil {
			t.Error(err)
		}
		after := p.mode()
		close(stop)
		signals.Wait()
		if after != p.before {
			t.Fatalf("the terminal was %+v and is %+v", p.before, after)
		}
	}
}

// TestReplayGivesTheTerminalBack on every way out.
func TestReplayGivesTheTerminalBack(t *testing.T) {
	s := newPast(t)
	t.Run("q", func(t *testing.T) {
		p := newPty(t)
		ended := p.play(t.Context(), s, "--pace", "time")
		p.expect("", "n=<0>", "space: pause")
		p.expect("q", "The replay was ended: stopped")
		p.wantEnd(ended, ExitOK)
	})
	t.Run("a signal", func(t *testing.T) {
		p := newPty(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := p.play(ctx, s, "--pace", "time")
		p.expect("", "n=<0>", "space: pause")
		cancel()
		p.wantEnd(ended, ExitInterrupted)
	})
	t.Run("q while it is paused", func(t *testing.T) {
		p := newPty(t)
		ended := p.play(t.Context(), s, "--pace", "time")
		p.expect("", "n=<0>", "space: pause")
		p.expect(" ", "paused")
		p.expect("q", "stopped")
		p.wantEnd(ended, ExitOK)
	})
	t.Run("an error", func(t *testing.T) {
		p := newPty(t)
		p.wantEnd(p.play(t.Context(), s, "nobody"), ExitNotFound)
	})
	t.Run("no keys for a simple terminal", func(t *testing.T) {
		p := newPty(t)
		program := Program{Stdin: p.end, Stdout: p.end, Stderr: p.end, Env: []string{"SIGNALBOX_DATA=" + s.dir, "TERM=dumb"}}
		if code := program.Run(t.Context(), []string{"replay", "--speed", "max"}); code != ExitOK || strings.Contains(p.screen(), "space: pause") {
			t.Errorf("exit code %d, the screen: %q", code, p.screen())
		}
	})
}
