package compat

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/auth"
)

const (
	// maxDevices is how many devices a page shows.
	maxDevices = 200
	// maxTelemetryShown cuts long telemetry on the page, in bytes.
	maxTelemetryShown = 2000
)

// view is what a page shows.
type view struct {
	Words    *words
	Style    template.CSS
	Messages []flash
	Texts    []message
	User     string

	Login  bool
	Action string

	Find    string
	Devices []row
	More    bool
}

type message struct {
	Text string
	Good bool
}

type row struct {
	Name, Type, Status, Telemetry, Seen string
	Online                              bool
}

func (p *Pages) index(w http.ResponseWriter, r *http.Request, who auth.Identity) {
	v := &view{User: who.Name, Find: r.URL.Query().Get("q"), Messages: p.takeFlashes(w, r)}
	for _, d := range p.Devices.All() {
		if !strings.Contains(d.Name, v.Find) {
			continue
		}
		if len(v.Devices) == maxDevices {
			v.More = true
			break
		}
		seen, state := d.View(), d.StateView()
		one := row{Name: seen.Name, Type: seen.Type, Status: seen.Status, Online: seen.Presence == signalbox.Online, Telemetry: string(state.Telemetry)}
		if len(one.Telemetry) > maxTelemetryShown {
			one.Telemetry = one.Telemetry[:maxTelemetryShown] + "…"
		}
		if !seen.LastSeen.IsZero() {
			one.Seen = seen.LastSeen.Format(time.DateTime) + " UTC"
		}
		v.Devices = append(v.Devices, one)
	}
	p.show(w, r, http.StatusOK, v)
}

func (p *Pages) show(w http.ResponseWriter, r *http.Request, status int, v *view) {
	v.Words = wordsFor(r.Header.Get("Accept-Language"))
	v.Style = template.CSS(pageStyle) //nolint:gosec // our own file
	for _, f := range v.Messages {
		v.Texts = append(v.Texts, message{Text: v.Words.text(f), Good: f.Kind == flashSent})
	}
	var buf bytes.Buffer
	if err := p.page.Execute(&buf, v); err != nil {
		p.Logger.Error("a page could not be made", "err", err)
		http.Error(w, "the page could not be made; the hub's log says more", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Language, Cookie")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // a client that is gone needs no answer
}

// styleHash gives the source expression of a Content-Security-Policy that admits style.
func styleHash(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
