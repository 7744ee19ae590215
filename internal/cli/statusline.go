package cli

import (
	"bytes"
	"io"
	"sync"

	"golang.org/x/term"
)

// statusLine is a line at the bottom of a terminal, below what is written to standard output.
// Its methods may be called from any goroutine.
type statusLine struct {
	mu      sync.Mutex
	out     io.Writer // standard output
	shared  bool      // and it is on the terminal, too
	w       io.Writer // the terminal
	fd      int       // of w
	text    string
	drawn   bool
	midLine bool // what was written to out ends within a line
}

// newStatusLine makes one on standard error, which is the terminal behind fd.
func (p *Program) newStatusLine(fd int) *statusLine {
	_, shared := terminal(p.Stdout)
	return &statusLine{out: p.Stdout, shared: shared, w: p.Stderr, fd: fd}
}

// Write writes to standard output.
func (s *statusLine) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shared {
		return s.out.Write(p)
	}
	s.wipe()
	n, err := s.out.Write(p)
	if n > 0 {
		s.midLine = !bytes.HasSuffix(p[:n], []byte("\n"))
	}
	s.draw()
	return n, err
}

// set shows text, as much of it as there is room for.
func (s *statusLine) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == s.text && s.drawn {
		return
	}
	s.text = text
	s.draw()
}

// end takes the line away.
func (s *statusLine) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = ""
	s.wipe()
}

func (s *statusLine) draw() {
	if s.text == "" || s.midLine {
		return
	}
	_, _ = io.WriteString(s.w, "\r"+cutTo(s.text, s.room())+"\x1b[K") // a terminal that is gone shows nothing
	s.drawn = true
}

// room is how many columns a text may take: in the last one some terminals would break the line.
func (s *statusLine) room() int {
	columns, _, err := term.GetSize(s.fd)
	if err != nil || columns <= 0 {
		columns = 80
	}
	return columns - 1
}

func (s *statusLine) wipe() {
	if s.drawn {
		_, _ = io.WriteString(s.w, "\r\x1b[K") // as above
		s.drawn = false
	}
}

// cutTo gives as much of the beginning of text as fits so many columns.
func cutTo(text string, columns int) string {
	n := 0
	for i, r := range text {
		if n += width(string(r)); n > columns {
			return text[:i]
		}
	}
	return text
}
