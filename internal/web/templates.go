package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/version"
)

//go:embed templates static
var files embed.FS

// functions are what templates call.
var functions = template.FuncMap{
	"bytes":   quantity.Bytes,
	"rate":    quantity.Rate,
	"number":  human.Number,
	"count":   human.Count,
	"seconds": func(s api.Seconds) string { return quantity.Elapsed(s.Duration()) },
	"span":    quantity.Elapsed,
	"since": func(from any, now time.Time) (string, error) {
		t, err := instant(from)
		return quantity.Elapsed(now.Sub(t)), err
	},
	"instant":  instant,
	"ago":      human.Ago,
	"rfc3339":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"date":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"int":      func(n int64) int { return int(n) },
	"int64":    func(n float64) int64 { return int64(n) },
	"duration": func(seconds float64) string { return quantity.Elapsed(api.Seconds(seconds).Duration()) },
	"verdict":  func(v api.MachineVerdict) string { return strings.TrimPrefix(v.String(), v.Machine+": ") },
	"taglink":  tagURL,
	"add":      func(a, b int) int { return a + b },
	"name":     func(b any) string { return display.Name(buildOf(b)) },
	"short":    display.ShortID,
	"drvname":  api.DerivationName,
	"took":     func(b any, now time.Time) time.Duration { return display.Took(buildOf(b), now) },
	"reason":   func(b any) string { return display.Reason(buildOf(b)) },
	"expected": display.Expected,
	"event":    eventText,
	"word":     display.MachineState,
	"note":     display.MachineNote,
	"join":     strings.Join,
	"person":   personName,
	"sign":     sign,
	"tone":     tone,
	"percent":  func(part, whole int) int { return 100 * part / max(whole, 1) },
	"share":    share,
	"dict":     dict,
	"version":  version.Full,
	"asset":    asset,
}

// instant is a time that a model has as a value or by its address.
func instant(v any) (time.Time, error) {
	switch t := v.(type) {
	case time.Time:
		return t, nil
	case *time.Time:
		return *t, nil
	}
	return time.Time{}, fmt.Errorf("%T is no time", v)
}

// buildOf is a build that a model has as a value or by its address.
func buildOf(v any) *api.Build {
	switch b := v.(type) {
	case api.Build:
		return &b
	case *api.Build:
		return b
	}
	return &api.Build{}
}

// share is how much of a whole its parts are together.
func share(whole int, parts ...int) string {
	sum := 0
	for _, n := range parts {
		sum += n
	}
	return fmt.Sprintf("%.2f%%", 100*float64(sum)/float64(max(whole, 1)))
}

// dict makes a map of names and values, for templates that are given several.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: %d values, want names and values", len(pairs))
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// sign stands before a word that has a colour, for who sees none.
func sign(word any) string {
	switch tone(word) {
	case "good":
		return "✔"
	case "bad":
		return "✘"
	case "warn":
		return "⚠"
	case "busy":
		return "▶"
	}
	return "·"
}

// eventText is what an event says of a build, or of a machine; the page names that before it.
func eventText(ev api.Event) string {
	if ev.Build == "" {
		ev.Machine = ""
	}
	return strings.TrimPrefix(display.EventText(&ev), ": ")
}

// tone is the class of a word of state, of a build or a machine, or of a level.
func tone(word any) string {
	switch fmt.Sprint(word) {
	case "succeeded", "up":
		return "good"
	case "failed", "timed-out", "down", "untrusted", "unfit", "bad":
		return "bad"
	case "dependency-failed", "quarantined", "refuses", "draining", "warn", "overdue":
		return "warn"
	case "placed", "sending", "building", "fetching", "connecting":
		return "busy"
	}
	return "idle"
}

// shared is what all pages have: the layout, and templates that several use.
var shared = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/acts.html"))
})

// pageTemplate returns the template of a page. It panics if there is none, which every start of a server
// would show.
func pageTemplate(name string) *template.Template {
	return template.Must(template.Must(shared().Clone()).ParseFS(files, "templates/"+name+".html"))
}

// asset is the URL of a static file, which is another one when the file is.
func asset(name string) (string, error) {
	content, err := files.ReadFile("static/" + name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return "/static/" + name + "?" + hex.EncodeToString(sum[:4]), nil
}

// staticFiles serves the style and the script.
func staticFiles() http.Handler {
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=86400")
		serve.ServeHTTP(w, r)
	})
}
