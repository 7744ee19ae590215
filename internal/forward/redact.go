package forward

import (
	"encoding/base64"
	"net/url"
	"strings"
)

const (
	// hidden stands for what is not shown.
	hidden = "***"
	// leastSecret is the length from which on a value of a URL's query is looked for in a text, in
	// bytes: shorter ones are parts of too many words.
	leastSecret = 4
)

// ShownURL gives a target's URL without what may be secret in it: the values of its query, a
// password, a fragment. The path is shown.
func ShownURL(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme == "" {
		return "(not a usable URL)" // which may hold a secret anywhere
	}
	user, query := "", ""
	if u.User != nil {
		user = url.User(u.User.Username()).String() + "@"
		if _, has := u.User.Password(); has {
			user = strings.TrimSuffix(user, "@") + ":" + hidden + "@"
		}
	}
	if u.RawQuery != "" {
		query = "?" + shownQuery(u.RawQuery)
	}
	return u.Scheme + "://" + user + u.Host + u.EscapedPath() + query
}

func shownQuery(raw string) string {
	parts := strings.Split(raw, "&")
	for i, part := range parts {
		if name, _, has := strings.Cut(part, "="); has {
			parts[i] = name + "=" + hidden
		} else {
			parts[i] = hidden // a lone word is as likely the secret itself
		}
	}
	return strings.Join(parts, "&")
}

// HidesSecret says whether a URL was shown by ShownURL and lacks what that left out, so that it
// cannot be set.
func HidesSecret(to string) bool {
	for _, shown := range []string{"=" + hidden, "?" + hidden, "&" + hidden, ":" + hidden + "@"} {
		if strings.Contains(to, shown) {
			return true
		}
	}
	return false
}

// Scrub takes the secrets of a forwarder out of a text that is to be shown or logged: its URL is
// shown as ShownURL does, its secrets and the values of the URL's query not at all.
func Scrub(text string, spec *Spec) string {
	if spec.To != "" {
		text = strings.ReplaceAll(text, spec.To, ShownURL(spec.To))
	}
	secrets := []string{spec.Secrets.HMAC, spec.Secrets.Bearer, spec.Secrets.Password}
	if spec.Secrets.Password != "" { // as HTTP Basic has it, in what a receiver repeats
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(spec.Username+":"+spec.Secrets.Password)))
	}
	if u, err := url.Parse(spec.To); err == nil {
		if u.RawQuery != "" {
			text = strings.ReplaceAll(text, u.RawQuery, shownQuery(u.RawQuery))
			for part := range strings.SplitSeq(u.RawQuery, "&") {
				_, raw, _ := strings.Cut(part, "=")
				secrets = append(secrets, raw)
				if plain, err := url.QueryUnescape(raw); err == nil {
					secrets = append(secrets, plain)
				}
			}
		}
		if u.User != nil {
			password, _ := u.User.Password()
			secrets = append(secrets, password)
		}
	}
	for _, s := range secrets {
		if len(s) >= leastSecret {
			text = strings.ReplaceAll(text, s, hidden)
		}
	}
	return text
}
