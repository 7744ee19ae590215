package transfer

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

type tokenKind uint8

const (
	tokenPunct  tokenKind = iota // one character
	tokenWord                    // a keyword, a plain name or a number
	tokenName                    // in backquotes
	tokenString                  // in quotes
)

// token is a part of SQL text.
type token struct {
	kind tokenKind
	text string
}

func (t token) is(punct string) bool { return t.kind == tokenPunct && t.text == punct }

// maxToken is the longest string or word that is kept, in bytes; of a longer one the rest is
// left out.
const maxToken = 64 << 10

// lexer cuts the SQL of a dump into tokens.
type lexer struct {
	r    *bufio.Reader
	line int64
	buf  []byte
}

func newLexer(in io.Reader) *lexer {
	return &lexer{r: bufio.NewReaderSize(in, 64<<10), line: 1}
}

// unexpected makes the end of the text a fault.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (l *lexer) byte() (byte, error) {
	c, err := l.r.ReadByte()
	if c == '\n' && err == nil {
		l.line++
	}
	return c, err
}

func (l *lexer) peek() byte {
	if c, err := l.r.Peek(1); err == nil {
		return c[0]
	}
	return 0
}

// next gives the next token; without keep its text is left out, but for punctuation. io.EOF
// is the end of the text between tokens.
func (l *lexer) next(keep bool) (token, error) {
	for {
		c, err := l.byte()
		if err != nil {
			return token{}, err
		}
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case c == '#', c == '-' && l.dashes():
			if _, err := l.restOfLine(); err != nil {
				return token{}, err
			}
		case c == '/' && l.peek() == '*':
			if err := l.comment(); err != nil {
				return token{}, unexpected(err)
			}
		case c == '\'' || c == '"':
			return l.quoted(tokenString, c, keep)
		case c == '`':
			return l.quoted(tokenName, c, keep)
		case isWordByte(c):
			return l.word(c, keep)
		default:
			return token{tokenPunct, punctuation(c)}, nil
		}
	}
}

// punctuation avoids an allocation for what is frequent.
func punctuation(c byte) string {
	const frequent = "(),;.=-"
	if i := strings.IndexByte(frequent, c); i >= 0 {
		return frequent[i : i+1]
	}
	return string(rune(c))
}

// dashes says whether a comment follows the first dash: another one, and white space.
func (l *lexer) dashes() bool {
	b, _ := l.r.Peek(2) // the end of the text is no comment
	return len(b) == 2 && b[0] == '-' && (b[1] == ' ' || b[1] == '\t' || b[1] == '\n' || b[1] == '\r') || len(b) == 1 && b[0] == '-'
}

// restOfLine reads to the end of the line and gives the beginning of what it read.
func (l *lexer) restOfLine() (string, error) {
	l.buf = l.buf[:0]
	for {
		c, err := l.byte()
		switch {
		case errors.Is(err, io.EOF), err == nil && c == '\n':
			return string(l.buf), nil
		case err != nil:
			return "", err
		}
		if len(l.buf) < maxToken {
			l.buf = append(l.buf, c)
		}
	}
}

func (l *lexer) comment() error {
	if _, err := l.byte(); err != nil { // the star
		return err
	}
	for last := byte(0); ; {
		c, err := l.byte()
		if err != nil {
			return err
		}
		if last == '*' && c == '/' {
			return nil
		}
		last = c
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c == '$' || c == '@' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// word reads a keyword, a name or a number, such as 1.5e-7.
func (l *lexer) word(first byte, keep bool) (token, error) {
	number := first >= '0' && first <= '9'
	l.buf = append(l.buf[:0], first)
	for last := first; ; {
		c := l.peek()
		exponent := (c == '-' || c == '+') && (last == 'e' || last == 'E')
		if inNumber := number && (c == '.' || exponent); !isWordByte(c) && !inNumber {
			break
		}
		if _, err := l.byte(); err != nil {
			return token{}, unexpected(err)
		}
		if len(l.buf) < maxToken {
			l.buf = append(l.buf, c)
		}
		last = c
	}
	if !keep {
		return token{kind: tokenWord}, nil
	}
	return token{tokenWord, string(l.buf)}, nil
}

// quoted reads up to the closing quote; a quote inside is doubled, or behind a backslash.
func (l *lexer) quoted(kind tokenKind, quote byte, keep bool) (token, error) {
	l.buf = l.buf[:0]
	for {
		c, err := l.byte()
		if err != nil {
			return token{}, unexpected(err)
		}
		switch {
		case c == '\\' && kind == tokenString:
			if c, err = l.byte(); err != nil {
				return token{}, unexpected(err)
			}
			c = unescape(c)
		case c == quote && l.peek() == quote:
			if _, err := l.byte(); err != nil {
				return token{}, unexpected(err)
			}
		case c == quote:
			if !keep {
				return token{kind: kind}, nil
			}
			return token{kind, string(l.buf)}, nil
		}
		if keep && len(l.buf) < maxToken {
			l.buf = append(l.buf, c)
		}
	}
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case '0':
		return 0
	case 'Z':
		return 0x1a
	case 'b':
		return '\b'
	default:
		return c
	}
}

// skip reads to the end of the statement.
func (l *lexer) skip() error {
	for {
		t, err := l.next(false)
		if err != nil {
			return unexpected(err)
		}
		if t.is(";") {
			return nil
		}
	}
}

// otherDelimiter passes over the lines up to where the semicolon ends statements again: they
// hold triggers and procedures.
func (l *lexer) otherDelimiter() error {
	for {
		line, err := l.restOfLine()
		if err != nil {
			return err
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.TrimSpace(line) == ";" || strings.EqualFold(word, "DELIMITER") && strings.TrimSpace(rest) == ";" {
			return nil
		}
		if line == "" {
			if _, err := l.r.Peek(1); err != nil {
				return unexpected(err)
			}
		}
	}
}
