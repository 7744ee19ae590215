package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
)

type loginInput struct {
	request
	Body struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	}
}

// request lets a handler see the HTTP request and answer.
type request struct {
	r *http.Request
	w http.ResponseWriter
}

// Resolve implements huma.Resolver.
func (in *request) Resolve(ctx huma.Context) []error {
	in.r, in.w = humago.Unwrap(ctx)
	return nil
}

// meView is who a request comes from.
type meView struct {
	Name    string          `json:"name"`
	Kind    string          `json:"kind" enum:"user,token,local" doc:"A person, a program, or the hub's own machine."`
	Scope   signalbox.Scope `json:"scope" enum:"read,command,admin"`
	Expires Time            `json:"expires,omitzero" doc:"When the credential ends unless it is used before; absent: never."`
}

type userInput struct {
	Body struct {
		Name     string `json:"name" doc:"1 to 64 characters: letters, digits, «.», «_», «-», «@», «+»."`
		Password string `json:"password" doc:"8 characters to 72 bytes."`
	}
}

// UserPath is the part of an address that names a user.
type UserPath struct {
	Name string `path:"name" doc:"The user's name."`
}

type passwordInput struct {
	UserPath
	Body struct {
		Password string `json:"password" doc:"8 characters to 72 bytes."`
	}
}

type tokenInput struct {
	Body struct {
		Name      string          `json:"name"`
		Scope     signalbox.Scope `json:"scope" enum:"read,command,admin" doc:"read: look at everything; command: and send commands; admin: all."`
		ExpiresIn Duration        `json:"expires_in,omitempty" doc:"How long it holds; absent: for ever."`
	}
}

// madeTokenView is a token with its secret.
type madeTokenView struct {
	Token  tokenView `json:"token"`
	Secret string    `json:"secret" doc:"Shown this once. Send it as «Authorization: Bearer …»."`
}

type usersBody struct {
	Items []userView `json:"items" nullable:"false"`
}

type tokensBody struct {
	Items []tokenView `json:"items" nullable:"false"`
}

func (s *server) registerPeople() {
	login := operation(http.MethodPost, "/login", "login", "login", "Log in as a person", "The answer sets the cookie "+CookieName+". After failed logins there is a wait: 429 with Retry-After.")
	login.DefaultStatus = http.StatusNoContent
	register(s, "", login, func(_ context.Context, in *loginInput) (*struct{}, error) {
		return nil, s.Gate.Login(in.w, in.r, in.Body.Name, in.Body.Password)
	})
	logout := operation(http.MethodPost, "/logout", "logout", "login", "Log out", "Ends the browser login of the cookie, if there is one.")
	logout.DefaultStatus = http.StatusNoContent
	register(s, "", logout, func(_ context.Context, in *request) (*struct{}, error) {
		return nil, s.Gate.Logout(in.w, in.r)
	})
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/me", "me", "login", "Show who asks", ""), s.me)

	const users = "users"
	register(s, signalbox.ScopeAdmin, operation(http.MethodGet, "/users", "list-users", users, "List users", ""), s.listUsers)
	add := operation(http.MethodPost, "/users", "create-user", users, "Add a user", "All users are admins.")
	add.DefaultStatus = http.StatusCreated
	register(s, signalbox.ScopeAdmin, add, s.createUser)
	password := operation(http.MethodPut, "/users/{name}/password", "set-password", users, "Give a user a new password", "All their browser logins end.")
	password.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeAdmin, password, func(ctx context.Context, in *passwordInput) (*struct{}, error) {
		return nil, s.People.SetPassword(ctx, in.Name, in.Body.Password)
	})
	remove := operation(http.MethodDelete, "/users/{name}", "delete-user", users, "Remove a user", "The last user cannot be removed.")
	remove.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeAdmin, remove, func(ctx context.Context, in *UserPath) (*struct{}, error) {
		return nil, s.People.RemoveUser(ctx, in.Name)
	})

	const tokens = "tokens"
	register(s, signalbox.ScopeAdmin, operation(http.MethodGet, "/tokens", "list-tokens", tokens, "List tokens", ""), s.listTokens)
	create := operation(http.MethodPost, "/tokens", "create-token", tokens, "Make a token for a program", "The secret is in the answer, and nowhere else.")
	create.DefaultStatus = http.StatusCreated
	register(s, signalbox.ScopeAdmin, create, s.createToken)
	revoke := operation(http.MethodDelete, "/tokens/{token}", "revoke-token", tokens, "Revoke a token", "By its name or, if no token has that name, its ID.")
	revoke.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeAdmin, revoke, func(ctx context.Context, in *struct {
		Token string `path:"token" doc:"The token's name or ID."`
	},
	) (*struct{}, error) {
		return nil, s.People.RevokeToken(ctx, in.Token)
	})
}

func (s *server) me(ctx context.Context, _ *struct{}) (*struct{ Body meView }, error) {
	who := caller(ctx)
	kind := "token"
	if who.User {
		kind = "user"
	} else if who.ID == 0 {
		kind = "local"
	}
	return &struct{ Body meView }{meView{Name: who.Name, Kind: kind, Scope: who.Scope, Expires: Time{who.Expires}}}, nil
}

func (s *server) listUsers(context.Context, *struct{}) (*struct{ Body usersBody }, error) {
	out := &struct{ Body usersBody }{usersBody{Items: []userView{}}}
	for _, u := range s.People.ListUsers() {
		out.Body.Items = append(out.Body.Items, viewUser(u))
	}
	return out, nil
}

func (s *server) createUser(ctx context.Context, in *userInput) (*struct{ Body userView }, error) {
	u, err := s.People.AddUser(ctx, in.Body.Name, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return &struct{ Body userView }{viewUser(u)}, nil
}

func (s *server) listTokens(context.Context, *struct{}) (*struct{ Body tokensBody }, error) {
	out := &struct{ Body tokensBody }{tokensBody{Items: []tokenView{}}}
	for _, t := range s.People.ListTokens() {
		out.Body.Items = append(out.Body.Items, viewToken(t))
	}
	return out, nil
}

func (s *server) createToken(ctx context.Context, in *tokenInput) (*struct{ Body madeTokenView }, error) {
	var expires time.Time
	if in.Body.ExpiresIn > 0 {
		expires = s.now().Add(time.Duration(in.Body.ExpiresIn))
	}
	secret, t, err := s.People.CreateToken(ctx, in.Body.Name, in.Body.Scope, expires, caller(ctx).Name)
	if err != nil {
		return nil, err
	}
	return &struct{ Body madeTokenView }{madeTokenView{Token: viewToken(t), Secret: secret}}, nil
}
