package compat

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// loginAddress is the login page's address that leads back to path and query afterwards,
// as Flask-Login writes it: next is the address with its escapes undone as far as its
// meaning stays the same, then escaped as a form value.
func loginAddress(path, query string) string {
	if query != "" {
		path += "?" + unescape(query)
	}
	return "/login?next=" + url.QueryEscape(path)
}

// unescape undoes percent escapes but for control characters, space, «%», «&», «=», «+»
// and «#», which would change the meaning of a query, and for what is not UTF-8.
func unescape(query string) string {
	var out strings.Builder
	var run []byte
	flush := func() {
		for len(run) > 0 {
			r, n := utf8.DecodeRune(run)
			if r == utf8.RuneError && n == 1 {
				fmt.Fprintf(&out, "%%%02X", run[0])
			} else {
				out.Write(run[:n])
			}
			run = run[n:]
		}
	}
	for i := 0; i < len(query); i++ {
		c := query[i]
		if c == '%' && i+2 < len(query) {
			if b, ok := unhex(query[i+1], query[i+2]); ok {
				if b <= ' ' || b == 0x7f || strings.IndexByte("%&=+#", b) >= 0 {
					flush()
					out.WriteString(query[i : i+3])
				} else {
					run = append(run, b)
				}
				i += 2
				continue
			}
		}
		run = append(run, c)
	}
	flush()
	return out.String()
}

func unhex(a, b byte) (byte, bool) {
	hi, lo := strings.IndexByte("0123456789abcdef", a|0x20), strings.IndexByte("0123456789abcdef", b|0x20)
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}
