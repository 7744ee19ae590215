package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"signalbox"
)

const (
	// flushEvery is how often Run writes down what was last used when.
	flushEvery = time.Minute
	// lastFlush bounds the writing at the end of Run.
	lastFlush = 5 * time.Second
)

func (p *People) loadTokens(ctx context.Context) error {
	err := p.store.Tokens(ctx, func(t signalbox.Token, hash [32]byte) error {
		one := newToken(t, hash)
		p.tokens[hash], p.named[t.Name] = one, one
		return nil
	})
	if err != nil {
		return fmt.Errorf("load tokens: %w", err)
	}
	return nil
}

func newToken(t signalbox.Token, hash [32]byte) *token {
	one := &token{Token: t, hash: hash}
	if !t.LastUsed.IsZero() {
		one.used.Store(t.LastUsed.Unix() / 60)
		one.written.Store(one.used.Load())
	}
	return one
}

// CreateToken makes a token for a program and gives its secret, which cannot be had again.
// expires zero means never; by names who asked. It gives KindInvalid for a name that
// signalbox.CheckName refuses, an unknown scope or an expiry that has passed,
// KindConflict for a taken name and KindLimited beyond MaxTokens.
func (p *People) CreateToken(ctx context.Context, name string, scope signalbox.Scope, expires time.Time, by string) (string, signalbox.Token, error) {
	if err := signalbox.CheckName("token name", name); err != nil {
		return "", signalbox.Token{}, err
	}
	if !scope.Valid() {
		return "", signalbox.Token{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_scope", "%q is no scope; allowed are %s, %s and %s",
			string(scope), signalbox.ScopeRead, signalbox.ScopeCommand, signalbox.ScopeAdmin)
	}
	created := now()
	if !expires.IsZero() {
		if !expires.After(created) {
			return "", signalbox.Token{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_expiry", "the token would end at %s, which has passed", expires.UTC().Format(time.RFC3339))
		}
		expires = time.UnixMilli(expires.UnixMilli()).UTC()
	}
	secret, hash := NewToken()
	made := signalbox.Token{Name: name, Scope: scope, CreatedBy: by, CreatedAt: created, ExpiresAt: expires}

	if err := p.beginChange(ctx); err != nil {
		return "", signalbox.Token{}, err
	}
	defer p.change.Unlock()
	p.mu.RLock()
	taken, count := p.named[name] != nil, len(p.named)
	p.mu.RUnlock()
	if taken {
		return "", signalbox.Token{}, signalbox.Errorf(signalbox.KindConflict, codeNameTaken, "a token named %q exists already; revoke it first or take another name", name)
	}
	if count >= MaxTokens {
		return "", signalbox.Token{}, signalbox.Errorf(signalbox.KindLimited, "too_many_tokens", "there are %d tokens already, which is the most a hub keeps; revoke some", count)
	}
	err := p.store.AddToken(ctx, made, hash, func(id int64) {
		made.ID = id
		one := newToken(made, hash)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tokens[hash], p.named[name] = one, one
	})
	if err != nil {
		return "", signalbox.Token{}, err
	}
	return secret, made, nil
}

// ListTokens gives all tokens by ID, those that have expired too. LastUsed is true to the
// minute.
func (p *People) ListTokens() []signalbox.Token {
	p.mu.RLock()
	defer p.mu.RUnlock()
	list := make([]signalbox.Token, 0, len(p.tokens))
	for _, one := range p.tokens {
		t := one.Token
		if used := one.used.Load(); used != 0 {
			t.LastUsed = time.Unix(used*60, 0).UTC()
		}
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b signalbox.Token) int { return int(a.ID - b.ID) })
	return list
}

// RevokeToken ends a token for good. which is its name or, if no token has that name, its
// ID. KindNotFound without one.
func (p *People) RevokeToken(ctx context.Context, which string) error {
	if err := p.beginChange(ctx); err != nil {
		return err
	}
	defer p.change.Unlock()
	one := p.findToken(which)
	if one == nil {
		return signalbox.Errorf(signalbox.KindNotFound, "token_not_found", "there is no token with the name or ID %q", which)
	}
	return p.store.RemoveToken(ctx, one.ID, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.tokens, one.hash)
		delete(p.named, one.Name)
		if p.revoked != nil {
			p.revoked(one.ID)
		}
	})
}

func (p *People) findToken(which string) *token {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if one := p.named[which]; one != nil {
		return one
	}
	id, err := strconv.ParseInt(which, 10, 64)
	if err != nil {
		return nil
	}
	for _, one := range p.named {
		if one.ID == id {
			return one
		}
	}
	return nil
}

// AuthenticateToken tells whose token this is; KindUnauthorized when it is unknown, has
// expired or was revoked. It reads memory only.
func (p *People) AuthenticateToken(secret string) (Identity, error) {
	key := HashToken(secret)
	p.mu.RLock()
	one := p.tokens[key]
	p.mu.RUnlock()
	if one == nil {
		return Identity{}, signalbox.Errorf(signalbox.KindUnauthorized, "unauthorized", "the token is unknown or was revoked")
	}
	at := time.Now()
	if !one.ExpiresAt.IsZero() && !at.Before(one.ExpiresAt) {
		return Identity{}, signalbox.Errorf(signalbox.KindUnauthorized, "token_expired", "the token ended at %s", one.ExpiresAt.Format(time.RFC3339))
	}
	if minute := at.Unix() / 60; one.used.Load() != minute {
		one.used.Store(minute)
		p.touched.Store(true)
	}
	return Identity{ID: one.ID, Name: one.Name, Scope: one.Scope, Expires: one.ExpiresAt}, nil
}

// Run writes down once a minute when tokens and logins were used, and removes logins that
// have ended. When ctx ends it does so once more, for up to 5 s, and returns nil. A store
// that cannot be written is logged and tried again.
func (p *People) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			p.flush(ctx)
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	p.flush(last)
	return nil
}

func (p *People) flush(ctx context.Context) {
	if err := p.Flush(ctx); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		p.log.Warn("the last use of tokens and logins could not be stored", "err", err)
	}
}

// Flush is one round of Run.
func (p *People) Flush(ctx context.Context) (err error) {
	if !p.touched.Load() && !p.anyEnded() {
		return nil
	}
	if err := p.beginChange(ctx); err != nil {
		return err
	}
	defer p.change.Unlock()
	p.touched.Store(false)
	defer func() {
		if err != nil {
			p.touched.Store(true)
		}
	}()
	used, expires := map[int64]time.Time{}, map[[32]byte]time.Time{}
	var ended [][32]byte
	at := now().UnixMilli()
	p.mu.RLock()
	for _, one := range p.tokens {
		if minute := one.used.Load(); minute != one.written.Load() {
			used[one.ID] = time.Unix(minute*60, 0).UTC()
		}
	}
	for hash, l := range p.logins {
		if end := l.expires.Load(); end <= at {
			ended = append(ended, hash)
		} else if end != l.written.Load() {
			expires[hash] = time.UnixMilli(end).UTC()
		}
	}
	p.mu.RUnlock()

	if len(used)+len(expires) > 0 {
		if err := p.store.Touch(ctx, used, expires); err != nil {
			return err
		}
	}
	p.mu.Lock()
	for _, one := range p.tokens {
		if at, ok := used[one.ID]; ok {
			one.written.Store(at.Unix() / 60)
		}
	}
	for hash, end := range expires {
		p.logins[hash].written.Store(end.UnixMilli())
	}
	p.mu.Unlock()
	if len(ended) == 0 {
		return nil
	}
	return p.store.RemoveLogins(ctx, ended, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, hash := range ended {
			delete(p.logins, hash)
		}
	})
}

// anyEnded reports whether a browser login has ended by itself.
func (p *People) anyEnded() bool {
	at := now().UnixMilli()
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, l := range p.logins {
		if l.expires.Load() <= at {
			return true
		}
	}
	return false
}
