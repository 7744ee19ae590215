package compat

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
)

// flash is a message shown once, on the next page.
type flash struct {
	Kind string `json:"k"`
	// Text is the command's name, the seconds to wait, or the error's words.
	Text string `json:"t,omitempty"`
}

// The kinds of message; their texts are in words.go.
const (
	flashWrongLogin = "wrong_login"
	flashWait       = "wait"
	flashForbidden  = "forbidden"
	flashSent       = "sent"
	flashOffline    = "offline"
	flashMissing    = "missing"
	flashError      = "error"
)

const (
	flashCookie = "signalbox_flash"
	// flashLife is how long an unseen message waits, in seconds.
	flashLife = 300
	// maxFlashes and maxFlashText keep the cookie well below the 4 KiB browsers take.
	maxFlashes   = 5
	maxFlashText = 300
)

// flash adds a message to those that wait.
func (p *Pages) flash(w http.ResponseWriter, r *http.Request, f flash) {
	if len(f.Text) > maxFlashText {
		f.Text = f.Text[:maxFlashText]
	}
	all := append(readFlashes(r), f)
	if len(all) > maxFlashes {
		all = all[len(all)-maxFlashes:]
	}
	b, err := json.Marshal(all)
	if err != nil {
		return // strings always can be written
	}
	p.setFlashCookie(w, r, base64.RawURLEncoding.EncodeToString(b), flashLife)
}

// takeFlashes gives the messages that wait, which then wait no longer.
func (p *Pages) takeFlashes(w http.ResponseWriter, r *http.Request) []flash {
	all := readFlashes(r)
	if _, err := r.Cookie(flashCookie); err == nil {
		p.setFlashCookie(w, r, "", -1)
	}
	return all
}

// readFlashes reads the cookie; what did not come from flash is no message.
func readFlashes(r *http.Request) []flash {
	c, err := r.Cookie(flashCookie)
	if err != nil {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return nil
	}
	var all []flash
	if json.Unmarshal(b, &all) != nil {
		return nil
	}
	if len(all) > maxFlashes {
		all = all[:maxFlashes]
	}
	return all
}

func (p *Pages) setFlashCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: flashCookie, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: p.Gate.Secure(r),
	})
}
