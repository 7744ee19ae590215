package compat

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

const (
	// maxDevices is how many devices a page shows.
	maxDevices = 200
	// maxReadings is how many readings of a device it shows, and maxReadingLen cuts long
	// ones, in bytes.
	maxReadings   = 40
	maxReadingLen = 200
)

// view is what a page shows.
type view struct {
	Words    *words
	Style    template.CSS
	Script   template.JS
	Messages []flash
	Texts    []message
	User     string

	Login bool

	Find    string
	Devices []row
	More    bool
}

type message struct {
	Text string
	Good bool
}

// row is one device.
type row struct {
	Name, Type, Status, Seen string
	Online                   bool
	Readings                 []reading
	More                     bool
}

// reading is one field of a device's last telemetry.
type reading struct{ Name, Value string }

// partDevices is the value of the parameter part that asks for the list of devices alone;
// the page's script does, every two seconds.
const partDevices = "devices"

func (p *Pages) index(w http.ResponseWriter, r *http.Request, who auth.Identity) {
	query := r.URL.Query()
	v := &view{User: who.Name, Find: query.Get("q")}
	for _, d := range p.Devices.All() {
		if !strings.Contains(d.Name, v.Find) {
			continue
		}
		if len(v.Devices) == maxDevices {
			v.More = true
			break
		}
		v.Devices = append(v.Devices, rowOf(d))
	}
	if query.Get("part") == partDevices {
		p.render(w, r, http.StatusOK, partDevices, v)
		return
	}
	v.Messages = p.takeFlashes(w, r)
	p.show(w, r, http.StatusOK, v)
}

func rowOf(d *registry.Device) row {
	seen, state := d.View(), d.StateView()
	out := row{Name: seen.Name, Type: seen.Type, Status: seen.Status, Online: seen.Presence == signalbox.Online}
	if !seen.LastSeen.IsZero() {
		out.Seen = seen.LastSeen.Format(time.DateTime) + " UTC"
	}
	at := map[string]int{} // of duplicate keys the last counts
	out.More = !wire.Flatten(gjson.ParseBytes(state.Telemetry), func(name string, value gjson.Result) bool {
		if name == "type" || name == "status" {
			return true // what kind of frame it was, and what is shown already
		}
		one := reading{cut(name), cut(wire.Spelled(value))}
		if i, again := at[name]; again {
			out.Readings[i] = one
			return true
		}
		if len(out.Readings) == maxReadings {
			return false
		}
		at[name] = len(out.Readings)
		out.Readings = append(out.Readings, one)
		return true
	})
	return out
}

func cut(text string) string {
	if len(text) <= maxReadingLen {
		return text
	}
	return strings.ToValidUTF8(text[:maxReadingLen], "") + "…"
}

// show answers with a whole page.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, status int, v *view) {
	p.render(w, r, status, "page", v)
}

func (p *Pages) render(w http.ResponseWriter, r *http.Request, status int, part string, v *view) {
	v.Words = wordsFor(r.Header.Get("Accept-Language"))
	v.Style = template.CSS(pageStyle)  //nolint:gosec // our own file
	v.Script = template.JS(pageScript) //nolint:gosec // our own file
	for _, f := range v.Messages {
		v.Texts = append(v.Texts, message{Text: v.Words.text(f), Good: f.Kind == flashSent})
	}
	var buf bytes.Buffer
	if err := p.page.ExecuteTemplate(&buf, part, v); err != nil {
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

// sourceHash gives the source expression of a Content-Security-Policy that admits a style
// or script.
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
