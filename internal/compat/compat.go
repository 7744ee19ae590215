package compat

import (
	"context"
	_ "embed" // page, style and script
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

// Gate tells who sends a request and keeps browser logins.
type Gate interface {
	Identify(w http.ResponseWriter, r *http.Request) (auth.Identity, error)
	Login(w http.ResponseWriter, r *http.Request, name, password string) error
	Logout(w http.ResponseWriter, r *http.Request) error
	Secure(r *http.Request) bool
}

// Commands takes commands on.
type Commands interface {
	Submit(ctx context.Context, req signalbox.CommandRequest) (signalbox.Command, error)
}

// Config says what the pages work with; all of it is needed.
type Config struct {
	Gate     Gate
	Devices  *registry.Registry
	Commands Commands
	Logger   *slog.Logger
}

// Pages serves the original routes.
type Pages struct {
	Config
	page   *template.Template
	policy string
}

//go:embed page.gohtml
var pageText string

//go:embed page.css
var pageStyle string

//go:embed page.js
var pageScript string

// New makes the pages.
func New(cfg Config) *Pages {
	return &Pages{
		Config: cfg,
		page:   template.Must(template.New("page").Parse(pageText)),
		policy: "default-src 'none'; style-src '" + sourceHash(pageStyle) + "'; script-src '" + sourceHash(pageScript) +
			"'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}
}

// Mount adds the routes to mux.
func (p *Pages) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("GET /logout", p.known(p.logout))
	mux.HandleFunc("GET /{$}", p.known(p.index))
	mux.HandleFunc("POST /send_command", p.known(p.sendCommand))
	mux.HandleFunc("GET /get_telemetry", p.known(p.getTelemetry))
}

// known lets callers pass who are logged in and sends the others to the login page.
func (p *Pages) known(next func(w http.ResponseWriter, r *http.Request, who auth.Identity)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := p.Gate.Identify(w, r)
		if err != nil {
			redirect(w, loginAddress(r.URL.Path, r.URL.RawQuery))
			return
		}
		next(w, r, who)
	}
}

// redirect answers 302 with exactly this Location.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
}

func (p *Pages) showLogin(w http.ResponseWriter, r *http.Request) {
	p.show(w, r, http.StatusOK, &view{Login: true, Messages: p.takeFlashes(w, r)})
}

// login leads to the main page, whatever page was wanted before, and after a failure of any
// kind to the login page, which then says why: so did the original.
func (p *Pages) login(w http.ResponseWriter, r *http.Request) {
	if !p.parseForm(w, r) {
		return
	}
	name, password := r.PostForm.Get("username"), r.PostForm.Get("password")
	err := p.Gate.Login(w, r, name, password)
	if err == nil {
		redirect(w, "/")
		return
	}
	if r.Context().Err() != nil {
		return // the caller has gone
	}
	p.flash(w, r, p.whyNot(err))
	redirect(w, "/login")
}

// whyNot gives the message for a login that failed.
func (p *Pages) whyNot(err error) flash {
	if wait, ok := errors.AsType[*auth.WaitError](err); ok {
		return flash{Kind: flashWait, Text: strconv.FormatInt(int64((wait.After+time.Second-1)/time.Second), 10)}
	}
	switch signalbox.KindOf(err) {
	case signalbox.KindUnauthorized, signalbox.KindInvalid:
		return flash{Kind: flashWrongLogin}
	default:
		return flash{Kind: flashError, Text: p.wordsOf(err)}
	}
}

// refuse shows the login page with what is wrong.
func (p *Pages) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	p.show(w, r, status, &view{Login: true, Messages: []flash{{Kind: flashError, Text: p.wordsOf(err)}}})
}

// wordsOf gives what a person may see of err; a fault of the hub goes to the log.
func (p *Pages) wordsOf(err error) string {
	if e, ok := errors.AsType[*signalbox.Error](err); ok && e.Kind != signalbox.KindInternal {
		return e.Message
	}
	p.Logger.Error("a page could not be served", "err", err)
	return "something went wrong inside the hub; its log says more"
}

func (p *Pages) logout(w http.ResponseWriter, r *http.Request, _ auth.Identity) {
	if err := p.Gate.Logout(w, r); err != nil {
		p.refuse(w, r, http.StatusServiceUnavailable, err)
		return
	}
	redirect(w, "/login")
}

func (p *Pages) sendCommand(w http.ResponseWriter, r *http.Request, who auth.Identity) {
	if !p.parseForm(w, r) {
		return
	}
	req := signalbox.CommandRequest{Device: r.PostForm.Get("device_name"), Name: r.PostForm.Get("command"), CreatedBy: who.Name}
	if values, ok := r.PostForm["value"]; ok {
		req.Value = &values[0] // present but empty is a value too
	}
	p.flash(w, r, p.submit(r.Context(), who, &req))
	redirect(w, "/")
}

// submit sends a command and says what became of it.
func (p *Pages) submit(ctx context.Context, who auth.Identity, req *signalbox.CommandRequest) flash {
	if req.Device == "" || req.Name == "" {
		return flash{Kind: flashMissing}
	}
	if !who.Scope.Allows(signalbox.ScopeCommand) {
		return flash{Kind: flashForbidden}
	}
	_, err := p.Commands.Submit(ctx, *req)
	switch code := signalbox.CodeOf(err); {
	case err == nil:
		return flash{Kind: flashSent, Text: req.Name}
	case code == "device_offline", code == "device_not_found", code == "device_disabled":
		return flash{Kind: flashOffline}
	default:
		return flash{Kind: flashError, Text: p.wordsOf(err)}
	}
}

// noData is what the original answers for a device that has reported nothing, or that it
// does not know.
const noData = `{"error":"no data"}`

func (p *Pages) getTelemetry(w http.ResponseWriter, r *http.Request, _ auth.Identity) {
	body := []byte(noData)
	if d := p.Devices.Find(r.URL.Query().Get("device")); d != nil {
		if object := d.LatestObject(); object != nil {
			var err error
			if body, err = wire.AppendPyJSON(make([]byte, 0, len(object)+64), object); err != nil {
				p.Logger.Error("stored telemetry cannot be printed", "device", d.Name, "err", err)
				body = []byte(noData)
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // a client that is gone needs no answer
}

// formMemory is how much of a multipart form is held in memory, in bytes.
const formMemory = 64 << 10

// parseForm reads a form of either encoding; if it cannot be read, that is answered.
func (p *Pages) parseForm(w http.ResponseWriter, r *http.Request) bool {
	err := r.ParseMultipartForm(formMemory)
	if err == nil || errors.Is(err, http.ErrNotMultipart) {
		for _, values := range r.PostForm {
			for i := range values {
				values[i] = strings.ToValidUTF8(values[i], "\ufffd")
			}
		}
		return true
	}
	status := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		status = http.StatusRequestEntityTooLarge
	}
	http.Error(w, "the form cannot be read", status)
	return false
}
