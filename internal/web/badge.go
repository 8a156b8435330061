package web

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"strings"
	"unicode/utf8"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/scheduler/estimate"
)

// badge is a small picture for a README: what, and how it is.
type badge struct {
	what, how string
	tone      string // see tone
}

// The lengths of a badge, in pixels and characters.
const (
	badgeHeight = 20
	badgeChar   = 13 // of two characters
	badgePad    = 6
	maxBadge    = 40 // characters of each half
)

// badgeColours are those of the right half, on which white is read well.
var badgeColours = map[string]string{"good": "#1b6b3c", "bad": "#a3211b", "warn": "#7a5200", "busy": "#0b5a8a"}

// svg draws the badge. Whoever includes it may have no style for it, so it has its own colours.
func (b *badge) svg() []byte {
	left, right := human.Truncate(human.Line(b.what), maxBadge), human.Truncate(human.Line(b.how), maxBadge)
	width := func(text string) int { return badgeChar*utf8.RuneCountInString(text)/2 + 2*badgePad }
	l, r := width(left), width(right)
	colour := badgeColours[b.tone]
	if colour == "" {
		colour = "#55605a"
	}
	left, right = html.EscapeString(left), html.EscapeString(right)
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" role="img" aria-label="%s: %s"><title>%[3]s: %[4]s</title>`, l+r, badgeHeight, left, right)
	fmt.Fprintf(&s, `<rect width="%[1]d" height="%[3]d" fill="#333b37"/><rect x="%[1]d" width="%[2]d" height="%[3]d" fill="%[4]s"/>`, l, r, badgeHeight, colour)
	s.WriteString(`<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">`)
	for _, half := range []struct {
		x, width int
		text     string
	}{{0, l, left}, {l, r, right}} {
		fmt.Fprintf(&s, `<text x="%d" y="14" textLength="%d" lengthAdjust="spacingAndGlyphs">%s</text>`, half.x+badgePad, half.width-2*badgePad, half.text)
	}
	s.WriteString(`</g></svg>`)
	return []byte(s.String())
}

// serveBadge answers with the badge that a function returns for the name in the path.
func (s *Server) serveBadge(load func(context.Context, *http.Request, string) (*badge, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := s.bodies.get(r, false, s.now, func(r *http.Request) (*answer, error) {
			name, ok := strings.CutSuffix(r.PathValue("file"), ".svg")
			if !ok || name == "" {
				return nil, notFound("%s: a badge's address ends with NAME.svg", r.URL.Path)
			}
			ctx, cancel := context.WithTimeout(r.Context(), answerTime)
			defer cancel()
			b, err := load(ctx, r, name)
			if err != nil {
				return nil, err
			}
			a := newAnswer("image/svg+xml; charset=utf-8", b.svg())
			a.cache = "public, max-age=60"
			return a, nil
		})
		if err != nil {
			s.fail(w, r, err)
			return
		}
		a.serve(w, r)
	}
}

// packageBadge tells the state of a package's newest build that is final and was not canceled. The name has a version, or
// stands for all versions.
func (s *Server) packageBadge(ctx context.Context, r *http.Request, name string) (*badge, error) {
	q := r.URL.Query()
	for parameter := range q {
		if parameter != "system" {
			return nil, api.BadRequest("%q is not a parameter of a badge: there is system", parameter)
		}
	}
	filter := api.Filter{Name: name, System: q.Get("system"), States: append(failing(), api.Succeeded)}
	if err := filter.Check(); err != nil || strings.HasSuffix(name, "*") {
		return nil, api.BadRequest("%q is no name of a package", name)
	}
	shown := badge{what: name, how: "no builds"}
	if filter.System != "" {
		shown.what += " " + filter.System
	}
	var newest *api.Build
	for _, pattern := range []string{name, name + "-*"} {
		filter.Name = pattern
		list, err := s.list(ctx, &apiclient.BuildFilter{Filter: filter, Limit: buildsOfName})
		if err != nil {
			return nil, err
		}
		for i := range list.Builds {
			b := &list.Builds[i]
			base, _ := estimate.SplitName(display.Name(b))
			if (display.Name(b) == name || base == name) && (newest == nil || b.Submitted.After(newest.Submitted)) {
				newest = b
			}
		}
	}
	if newest != nil {
		shown.how, shown.tone = string(newest.State), tone(newest.State)
	}
	return &shown, nil
}

// tagBadge tells how far the builds with a tag are.
func (s *Server) tagBadge(ctx context.Context, r *http.Request, tag string) (*badge, error) {
	key, value, err := parseTag(tag)
	if err != nil {
		return nil, err
	}
	for parameter := range r.URL.Query() {
		return nil, api.BadRequest("%q is not a parameter of a badge of a tag", parameter)
	}
	m := Submission{Key: key, Value: value}
	counts, err := s.counts(ctx, &api.Filter{Tags: map[string]string{key: value}})
	if err != nil {
		return nil, err
	}
	m.count(counts)
	shown := badge{what: tag, how: "no builds"}
	if key == api.SubmissionTag {
		shown.what = value
	}
	switch {
	case m.All == 0:
	case m.Failed > 0:
		shown.tone = "bad"
	case m.Left > 0:
		shown.tone = "busy"
	default:
		shown.tone = "good"
	}
	if m.All > 0 {
		shown.how = human.Number(m.Built) + " built"
		if m.Failed > 0 {
			shown.how += ", " + human.Number(m.Failed) + " failed"
		}
		if m.Left > 0 {
			shown.how += ", " + human.Number(m.Left) + " to do"
		}
	}
	return &shown, nil
}
