package client

import (
	"context"
	"net/http"
	"time"

	"signalbox"
)

// Caller is who the hub takes this client for.
type Caller struct {
	Name string `json:"name"`
	// Kind is user, token or local.
	Kind    string          `json:"kind"`
	Scope   signalbox.Scope `json:"scope"`
	Expires time.Time       `json:"expires"`
}

// Me tells who the hub takes this client for.
func (h *Hub) Me(ctx context.Context) (Caller, error) {
	var c Caller
	_, err := h.do(ctx, http.MethodGet, "/me", nil, nil, &c)
	return c, err
}

// Login logs in as a person; the login is in the cookie jar of the client that
// WithHTTPClient gave, which needs one. KindLimited after failed logins.
func (h *Hub) Login(ctx context.Context, name, password string) error {
	_, err := h.do(ctx, http.MethodPost, "/login", nil, map[string]string{"name": name, "password": password}, nil)
	return err
}

// Logout ends the login of the cookie jar.
func (h *Hub) Logout(ctx context.Context) error {
	_, err := h.do(ctx, http.MethodPost, "/logout", nil, nil, nil)
	return err
}

// Users gives all users.
func (h *Hub) Users(ctx context.Context) ([]signalbox.User, error) {
	var page Page[signalbox.User]
	_, err := h.do(ctx, http.MethodGet, "/users", nil, nil, &page)
	return page.Items, err
}

// AddUser adds a user, who is an admin; KindConflict (name_taken) if the name is taken.
func (h *Hub) AddUser(ctx context.Context, name, password string) (signalbox.User, error) {
	var u signalbox.User
	_, err := h.do(ctx, http.MethodPost, "/users", nil, map[string]string{"name": name, "password": password}, &u)
	return u, err
}

// SetPassword gives a user a new password and ends their browser logins.
func (h *Hub) SetPassword(ctx context.Context, name, password string) error {
	_, err := h.do(ctx, http.MethodPut, at("users", name, "password"), nil, map[string]string{"password": password}, nil)
	return err
}

// RemoveUser removes a user; KindConflict (last_user) for the last one.
func (h *Hub) RemoveUser(ctx context.Context, name string) error {
	_, err := h.do(ctx, http.MethodDelete, at("users", name), nil, nil, nil)
	return err
}

// Tokens gives all tokens, without their secrets.
func (h *Hub) Tokens(ctx context.Context) ([]signalbox.Token, error) {
	var page Page[signalbox.Token]
	_, err := h.do(ctx, http.MethodGet, "/tokens", nil, nil, &page)
	return page.Items, err
}

// MakeToken makes a token for a program and gives its secret, which cannot be had again.
// life 0 means for ever.
func (h *Hub) MakeToken(ctx context.Context, name string, scope signalbox.Scope, life time.Duration) (secret string, t signalbox.Token, err error) {
	in := struct {
		Name      string          `json:"name"`
		Scope     signalbox.Scope `json:"scope"`
		ExpiresIn string          `json:"expires_in,omitempty"`
	}{name, scope, span(life)}
	var out struct {
		Token  signalbox.Token `json:"token"`
		Secret string          `json:"secret"`
	}
	_, err = h.do(ctx, http.MethodPost, "/tokens", nil, in, &out)
	return out.Secret, out.Token, err
}

// RevokeToken ends a token, by its name or its ID.
func (h *Hub) RevokeToken(ctx context.Context, which string) error {
	_, err := h.do(ctx, http.MethodDelete, at("tokens", which), nil, nil, nil)
	return err
}
