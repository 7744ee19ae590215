// Package compat serves the web pages and HTTP routes of the original remote-control
// server, so that its operators and their scripts go on as before: /login, /logout, /,
// /send_command and /get_telemetry.
//
// Contract. Status, Location and the JSON of /get_telemetry are the original's byte for
// byte. Without a login every route but /login answers 302 to /login?next=… as Flask-Login
// writes it. A login leads to /, whatever next says, and a login that fails for any reason
// to /login. Messages («flashes») travel in a cookie of their own and are shown once. Pages
// are in the language of Accept-Language, Russian without it. What may be large is cut: a
// page shows at most maxDevices devices and maxReadings readings of each; its script asks
// for the list anew every two seconds.
//
// The routes stand under the rules of the handler they are mounted in: limits of bodies,
// headers, and cross-origin protection, which lets requests pass that say nothing about
// their origin, as scripts do.
package compat
