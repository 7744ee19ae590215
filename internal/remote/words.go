package remote

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"os"
	"strings"

	"signalbox/internal/wire/packet"
)

// refusal is a CONNACK, DISCONNECT, SUBACK or PUBACK with a reason that is an error.
type refusal struct {
	what   string
	reason packet.Reason
	text   string // the broker's own words, 5.0 alone
}

func (r *refusal) Error() string {
	words := fmt.Sprintf("%s: %s", r.what, r.reason)
	if r.text != "" {
		words += fmt.Sprintf(" (%q)", r.text)
	}
	return words
}

// words says of an error what a person can use: the same words for the same fault, without
// ports that change each time, and without the password.
func (l *Link) words(err error) string {
	no, refused := errors.AsType[*refusal](err)
	op, network := errors.AsType[*net.OpError](err)
	var out string
	switch {
	case err == nil, errors.Is(err, net.ErrClosed):
		out = "the connection was lost"
	case refused:
		out = no.Error()
	case errors.Is(err, errStalled), errors.Is(err, errNoPing):
		out = err.Error()
	case isDeadline(err):
		out = "no answer within the time allowed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		out = "the broker closed the connection"
	case network:
		out = op.Op + ": " + op.Err.Error()
	default:
		out = err.Error()
	}
	return l.redact(out)
}

// redact takes the password out of words that a broker or a library chose, and makes one line of
// them.
func (l *Link) redact(text string) string {
	if l.secret != "" {
		text = strings.ReplaceAll(text, l.secret, "…")
	}
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// sum tells messages under one packet identifier apart.
func (l *Link) sum(m *message) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(m.topic) // never fails
	_ = h.WriteByte(0)
	_, _ = h.Write(m.payload)
	return h.Sum64()
}
