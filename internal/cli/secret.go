package cli

import (
	"bufio"
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
func (p *Program) askPassword(fromStdin bool, whose string) (string, error) {
	if fromStdin {
		return p.readSecretLine()
	}
	fd, ok := terminal(p.Stdin)
	if !ok {
		return "", usagef("there is no terminal to ask for the password; give it with --password-stdin")
	}
	ask := func(prompt string) (string, error) {
		p.notef("%s", prompt)
		answer, err := term.ReadPassword(fd)
		p.notef("\n")
		return string(answer), err
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
