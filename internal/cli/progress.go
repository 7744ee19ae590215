package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A progress bar on a terminal; elsewhere it says nothing. Its methods are called by one
// goroutine.
type progress struct {
	w     io.Writer // nil: not on a terminal
	noun  string
	total int
	begun time.Time
	drawn time.Time
}

// progress starts a bar of total steps on standard error.
func (p *Program) progress(noun string, total int) *progress {
	bar := &progress{noun: noun, total: total, begun: time.Now()}
	if _, ok := terminal(p.Stderr); ok {
		bar.w = p.Stderr
	}
	return bar
}

// at draws the bar with done steps behind it, ten times a second at most. Work that is
// over within half a second is not worth a bar.
func (b *progress) at(done int) {
	now := time.Now()
	if b.w == nil || now.Sub(b.begun) < time.Second/2 || now.Sub(b.drawn) < time.Second/10 {
		return
	}
	b.drawn = now
	if b.total == 0 { // nobody knows
		_, _ = fmt.Fprintf(b.w, "\r%d %s, %.0f/s\x1b[K", done, b.noun, float64(done)/now.Sub(b.begun).Seconds())
		return
	}
	const columns = 30
	filled := columns * done / max(b.total, 1)
	rate := float64(done) / now.Sub(b.begun).Seconds()
	_, _ = fmt.Fprintf(b.w, "\r[%s%s] %d of %d %s, %.0f/s\x1b[K", strings.Repeat("=", filled), strings.Repeat(" ", columns-filled), done, b.total, b.noun, rate)
}

// end wipes the bar.
func (b *progress) end() {
	if b.w != nil && !b.drawn.IsZero() {
		_, _ = fmt.Fprint(b.w, "\r\x1b[K")
	}
}
