//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package cli

import (
	"os"
	"sync"

	"golang.org/x/term"
)

// keyboard reads keys one by one from a terminal, which does not show them.
type keyboard struct {
	// keys gives them; it is closed when the terminal is gone.
	keys chan key

	fd     int
	before *term.State
	once   sync.Once
	err    error
}

// openKeyboard begins to read keys of the terminal behind fd. The goroutine that reads ends
// with the process: nothing wakes it.
func openKeyboard(fd int) (*keyboard, error) {
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	k := &keyboard{keys: make(chan key, keyQueue), fd: fd, before: before}
	go k.run()
	return k, nil
}

// close makes the terminal what it was. It may be called more than once.
func (k *keyboard) close() error {
	k.once.Do(func() { k.err = term.Restore(k.fd, k.before) })
	return k.err
}

func (k *keyboard) run() {
	defer close(k.keys)
	var reader keyReader
	buf := make([]byte, 64)
	for {
		n, err := os.Stdin.Read(buf)
		if err != nil {
			return
		}
		k.take(&reader, buf[:n])
	}
}
