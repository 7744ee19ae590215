package ws

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 asks for it
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// errNoUpgrade is the end of a connection whose request was answered with an HTTP error.
var errNoUpgrade = errors.New("the request was refused")

// Request is an upgrade request. It is valid only during Handler.Upgrade.
type Request struct {
	remote netip.AddrPort
	target string
	fields []field
	chosen string
	answer []byte
}

// field is one header field.
type field struct{ name, value string }

// RemoteAddr returns the peer's address; a 4-in-6 address is given as IPv4.
func (r *Request) RemoteAddr() netip.AddrPort { return r.remote }

// Target returns the request target as sent: path and query.
func (r *Request) Target() string { return r.target }

// Header returns the value of the named header field, of any case; several of one name are joined by ", " (RFC 9110
// section 5.3). It is "" if there is none.
func (r *Request) Header(name string) string {
	value, n := "", 0
	for _, f := range r.fields {
		if strings.EqualFold(f.name, name) {
			if n++; n > 1 {
				value += ", " + f.value
			} else {
				value = f.value
			}
		}
	}
	return value
}

// count returns how often a header field of that name stands in the request.
func (r *Request) count(name string) (n int) {
	for _, f := range r.fields {
		if strings.EqualFold(f.name, name) {
			n++
		}
	}
	return n
}

// has reports whether the comma-separated list in the named header has the token, of any case.
func (r *Request) has(name, token string) bool {
	for v := range strings.SplitSeq(r.Header(name), ",") {
		if strings.EqualFold(strings.TrimSpace(v), token) {
			return true
		}
	}
	return false
}

// BasicAuth returns the credentials of HTTP Basic authentication (RFC 7617); ok is false when the request has none.
func (r *Request) BasicAuth() (name, secret string, ok bool) {
	scheme, encoded, _ := strings.Cut(r.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(plain), ":")
}

// Subprotocols returns what the client offers in Sec-WebSocket-Protocol, in its order.
func (r *Request) Subprotocols() []string {
	var list []string
	for v := range strings.SplitSeq(r.Header("Sec-WebSocket-Protocol"), ",") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

// Choose echoes one of the offered subprotocols; it reports whether it was offered. Without it none is echoed.
func (r *Request) Choose(subprotocol string) bool {
	if !isToken(subprotocol) || !slices.Contains(r.Subprotocols(), subprotocol) {
		return false
	}
	r.chosen = subprotocol
	return true
}

// upgrade decides on the request in head, which ends with an empty line. It returns either an endpoint, with the answer
// to be sent in r, or a refusal.
func (s *Server) upgrade(r *Request, head []byte) (Endpoint, *Refusal) {
	if refusal := r.parse(string(head)); refusal != nil {
		return nil, refusal
	}
	endpoint, refusal := s.handler.Upgrade(r)
	if refusal != nil {
		return nil, refusal
	}
	if endpoint == nil {
		return nil, &Refusal{Status: http.StatusInternalServerError, Text: "The request cannot be served."}
	}
	r.accept()
	return endpoint, nil
}

// keyGUID is appended to a client's key to prove that its request was understood (RFC 6455 section 1.3).
const keyGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// accept makes the answer that upgrades (RFC 6455 section 4.2.2). No extension is ever agreed to.
func (r *Request) accept() {
	var key [24 + len(keyGUID)]byte // parse has checked the length
	copy(key[copy(key[:], r.Header("Sec-WebSocket-Key")):], keyGUID)
	sum := sha1.Sum(key[:]) //nolint:gosec // no secret: the RFC's proof of having read the key
	r.answer = append(r.answer[:0], "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	r.answer = base64.StdEncoding.AppendEncode(r.answer, sum[:])
	if r.chosen != "" {
		r.answer = append(append(r.answer, "\r\nSec-WebSocket-Protocol: "...), r.chosen...)
	}
	r.answer = append(r.answer, "\r\n\r\n"...)
}

// pooledFields is the most header fields for which there is room in a Request that is used again.
const pooledFields = 64

// request gives an empty Request, of one that is no longer used if there is one.
func (s *Server) request(remote netip.AddrPort) *Request {
	r, ok := s.requests.Get().(*Request)
	if !ok {
		r = new(Request)
	}
	r.remote = remote
	return r
}

// done takes a Request back.
func (s *Server) done(r *Request) {
	if cap(r.fields) > pooledFields {
		return
	}
	clear(r.fields) // they hold the head
	*r = Request{fields: r.fields[:0], answer: r.answer[:0]}
	s.requests.Put(r)
}

// parse reads the head and refuses what is no upgrade request.
func (r *Request) parse(head string) *Refusal {
	line, rest, _ := strings.Cut(strings.TrimSuffix(head, "\r\n"), "\r\n")
	method, line, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(line, " ")
	if method != http.MethodGet || target == "" || version != "HTTP/1.1" {
		return badRequest("The request line must be: GET, a path, HTTP/1.1.")
	}
	r.target = target
	for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\r\n"), "\r\n") {
		if line == "" && rest == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || strings.ContainsFunc(value, isControl) {
			return badRequest("A header line of the request is malformed.")
		}
		r.fields = append(r.fields, field{name, value})
	}
	if !r.has("Upgrade", "websocket") {
		return &Refusal{
			Status: http.StatusUpgradeRequired,
			Text:   "This port speaks WebSocket: send an upgrade request (RFC 6455), for example from a WebSocket client.",
		}
	}
	if !r.has("Connection", "Upgrade") {
		return badRequest("The request must have the header Connection: Upgrade.")
	}
	if r.count("Sec-WebSocket-Version") == 1 && r.Header("Sec-WebSocket-Version") != "13" {
		return &Refusal{Status: http.StatusUpgradeRequired, Text: "Only WebSocket version 13 is spoken here."}
	}
	for _, name := range []string{"Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"} {
		if n := r.count(name); n != 1 {
			return badRequest(fmt.Sprintf("The request must have one %s header, it has %d.", name, n))
		}
	}
	var nonce [18]byte
	key := r.Header("Sec-WebSocket-Key")
	if len(key) != 24 {
		return badRequest("Sec-WebSocket-Key must be 16 bytes in base64.")
	}
	if n, err := base64.StdEncoding.Decode(nonce[:], []byte(key)); err != nil || n != 16 {
		return badRequest("Sec-WebSocket-Key must be 16 bytes in base64.")
	}
	if n := r.Header("Content-Length"); n != "" && n != "0" || r.count("Transfer-Encoding") > 0 {
		return badRequest("An upgrade request must not have a body.")
	}
	return nil
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(b)) {
			return false
		}
	}
	return s != ""
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func badRequest(text string) *Refusal { return &Refusal{Status: http.StatusBadRequest, Text: text} }

// response is the HTTP answer.
func (r *Refusal) response() []byte {
	status := r.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if status == http.StatusUpgradeRequired {
		b.WriteString("Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n")
	} else {
		b.WriteString("Connection: close\r\n")
	}
	if status == http.StatusUnauthorized {
		b.WriteString("WWW-Authenticate: Basic realm=\"devices\", charset=\"UTF-8\"\r\n") // RFC 7617
	}
	text := strings.TrimRight(r.Text, "\n") + "\n"
	fmt.Fprintf(&b, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	return b.Bytes()
}
