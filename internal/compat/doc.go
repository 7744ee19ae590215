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
//
// # Viewers
//
// Viewers serves the viewers of the other original, the M2M chain: live ones beside the devices
// (the gateway hands their connections over, see Live), those of history on a port of their own
// (History). Both are endpoints of package ws. docs/viewers.md says what they are told.
//
//   - Order. A live viewer gets the readings of one field of one device in the order of the log,
//     from the position at which it said realtime. Answers of history come in the order of its
//     questions.
//   - Loss. None without a close: a viewer whose outbox is full is closed (policy slow_viewer,
//     1013), and so are all that watch when readings were missed on their way here (1013). A
//     question that cannot be answered is told so in words.
//   - Concurrency. Run hands readings out, never waiting, and has two workers for questions; the
//     event loops wait for neither. Each reading is made into a frame once. What the bus's filter
//     does takes two atomic loads.
//   - Limits. Viewers at a time, outbox, texts and the digits of a number are bounded; one question of
//     a viewer waits or is answered at a time, the next is read when it has its answer. Who sends far
//     ahead of being read is closed (1008): the transport reads what a viewer sent that has gone.
//   - Who. Viewers are admitted by their network, have no credentials, and change nothing.
package compat
