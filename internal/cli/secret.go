package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// maxSecretLine bounds a password line, in bytes; the limits proper are the hub's.
const maxSecretLine = 4096

// readSecretLine reads the first line of standard input.
func (p *Program) readSecretLine() (string, error) {
	line, err := bufio.NewReader(io.LimitReader(p.Stdin, maxSecretLine+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	switch {
	case line == "":
		return "", usagef("--password-stdin found no password on standard input")
	case len(line) > maxSecretLine:
		return "", usagef("the password on standard input is longer than %d bytes", maxSecretLine)
	}
	return line, nil
}

// askPassword gets a new password from standard input, or asks for it twice on a terminal
// without showing it.
func (p *Program) askPassword(ctx context.Context, fromStdin bool, whose string) (string, error) {
	if fromStdin {
		return p.readSecretLine()
	}
	fd, ok := terminal(p.Stdin)
	if !ok {
		return "", usagef("there is no terminal to ask for the password; give it with --password-stdin")
	}
	ask := func(prompt string) (string, error) {
		p.notef("%s", prompt)
		defer p.notef("\n")
		return readHidden(ctx, fd)
	}
	first, err := ask(fmt.Sprintf("New password of %s: ", clean(whose)))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if first != second {
		return "", usagef("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// readHidden reads a line from a terminal without showing it. When ctx ends first, the
// terminal shows again what is typed; the goroutine that reads ends with the process.
func readHidden(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type answer struct {
		text []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- answer{text: text, err: err}
	}()
	select {
	case a := <-read:
		return string(a.text), a.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}
