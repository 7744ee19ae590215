//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cli

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keyLook is how often a keyboard that is still looks whether it is to be closed.
const keyLook = 50 * time.Millisecond

// keyboard reads keys one by one from a terminal, which does not show them. Signals of the
// terminal (Ctrl-C, Ctrl-Z) go on as they are, but for Ctrl-\, which would end the process at
// once and leave the terminal as it is.
type keyboard struct {
	// keys gives them; it is closed when the terminal is gone or the keyboard was closed.
	keys chan key

	fd      int
	before  unix.Termios
	closing chan struct{}
	resumed chan os.Signal
	once    sync.Once
	ended   sync.WaitGroup
	err     error
}

var errBackground = errors.New("the process is in the background")

// openKeyboard begins to read keys of the terminal behind fd.
func openKeyboard(fd int) (*keyboard, error) {
	if !foreground(fd) {
		return nil, errBackground
	}
	if fd >= unix.FD_SETSIZE {
		return nil, errors.ErrUnsupported
	}
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, err
	}
	k := &keyboard{keys: make(chan key, keyQueue), fd: fd, before: *before, closing: make(chan struct{}), resumed: make(chan os.Signal, 1)}
	if err := k.enter(); err != nil {
		return nil, err
	}
	signal.Notify(k.resumed, syscall.SIGCONT)
	k.ended.Go(k.run)
	return k, nil
}

// foreground says whether the terminal listens to this process, and the process may change it.
func foreground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp() // with an error it controls no processes
}

// enter makes the terminal give each key at once.
func (k *keyboard) enter() error {
	mode := k.before
	mode.Lflag &^= unix.ICANON | unix.ECHO
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	mode.Cc[unix.VQUIT] = noCharacter
	return unix.IoctlSetTermios(k.fd, setTermios, &mode)
}

// close makes the terminal what it was. It may be called more than once.
func (k *keyboard) close() error {
	k.once.Do(func() {
		signal.Stop(k.resumed)
		close(k.closing)
		k.ended.Wait()        // it changes the terminal, too
		if foreground(k.fd) { // else whoever is there has it in a mode of their own
			k.err = unix.IoctlSetTermios(k.fd, setTermios, &k.before)
		}
	})
	return k.err
}

func (k *keyboard) run() {
	defer close(k.keys)
	var reader keyReader
	buf := make([]byte, 64)
	for {
		select {
		case <-k.closing:
			return
		default:
		}
		ready, err := k.ready()
		if err != nil {
			return
		}
		if !ready {
			continue
		}
		n, err := unix.Read(k.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil, n <= 0:
			return
		default:
			k.take(&reader, buf[:n])
		}
	}
}

// ready waits for keys, for a moment.
func (k *keyboard) ready() (bool, error) {
	if !foreground(k.fd) { // reading would stop the process
		select {
		case <-k.closing:
		case <-time.After(keyLook):
		}
		return false, nil
	}
	select {
	case <-k.resumed: // whoever had the terminal meanwhile has changed it
		if err := k.enter(); err != nil {
			return false, err
		}
	default:
	}
	var set unix.FdSet
	set.Set(k.fd)
	wait := unix.NsecToTimeval(keyLook.Nanoseconds())
	n, err := unix.Select(k.fd+1, &set, nil, nil, &wait)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}
