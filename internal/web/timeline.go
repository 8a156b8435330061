package web

import (
	"context"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/internal/web/picture"
	"lighter/store"
)

// TimeLine is when builds were made.
type TimeLine struct {
	Picture template.HTML `json:"-"`
	// Path is the critical path as far as it is known, in the order of time: at its end is the build that ended
	// last, before that what it waited for that ended last, and so on.
	Path []api.Build `json:"path"`
	// Builds is how many are in the picture: those of the newest, of which there are More.
	Builds int  `json:"builds"`
	More   bool `json:"more,omitempty"`
}

const (
	// timeLineBuilds bounds the builds of a time line, and maxPath the builds of its critical path.
	timeLineBuilds = 1000
	maxPath        = 30
)

func (s *Server) timeLine(ctx context.Context, tags map[string]string) (*TimeLine, error) {
	t := &TimeLine{Path: []api.Build{}}
	list, err := s.list(ctx, &apiclient.BuildFilter{Filter: api.Filter{Tags: tags}, Limit: timeLineBuilds})
	if err != nil {
		return nil, err
	}
	t.More = list.Next != ""
	builds := list.Builds
	builds = slices.DeleteFunc(builds, func(b api.Build) bool { return b.Started == nil })
	if t.Builds = len(builds); t.Builds == 0 {
		return t, nil
	}
	now := s.now()
	ends := func(b *api.Build) time.Time {
		if b.Stopped != nil {
			return *b.Stopped
		}
		return now
	}
	if t.Path, err = s.criticalPath(ctx, builds, ends); err != nil {
		return nil, err
	}
	onPath := make(map[string]bool)
	for i := range t.Path {
		onPath[t.Path[i].ID] = true
	}
	f := picture.Frame{Title: "When the builds were made", Since: *builds[0].Started, Until: *builds[0].Started}
	var others []picture.Span
	for i := range builds {
		b := &builds[i]
		if b.Started.Before(f.Since) {
			f.Since = *b.Started
		}
		if end := ends(b); end.After(f.Until) {
			f.Until = end
		}
		if !onPath[b.ID] {
			others = append(others, span(b))
		}
	}
	var critical []picture.Span
	for i := range t.Path {
		critical = append(critical, span(&t.Path[i]))
	}
	f.Since, f.Until = f.Since.UTC(), f.Until.UTC()
	f.Description = fmt.Sprintf("%s from %s to %s; the first rows, marked ▶, are the critical path", human.Count(len(builds), "build"), f.Since.Format(time.DateTime), f.Until.Format(time.DateTime))
	t.Picture = picture.Submission(f, critical, others)
	return t, nil
}

// span is a build as a bar.
func span(b *api.Build) picture.Span {
	x := picture.Span{From: *b.Started, State: b.State, Title: display.Name(b), Href: "/build/" + b.ID}
	if b.Stopped != nil {
		x.To = *b.Stopped
		x.Title += " " + quantity.Elapsed(b.Stopped.Sub(*b.Started))
	}
	return x
}

// criticalPath goes back from the build that ended last, to what it waited for that ended last, as far as
// builds' histories name what they waited for.
func (s *Server) criticalPath(ctx context.Context, builds []api.Build, ends func(*api.Build) time.Time) ([]api.Build, error) {
	byDerivation := make(map[store.Path]*api.Build)
	last := &builds[0]
	for i := range builds {
		b := &builds[i]
		if byDerivation[b.Derivation] == nil {
			byDerivation[b.Derivation] = b
		}
		if ends(b).After(ends(last)) {
			last = b
		}
	}
	path := []api.Build{*last}
	for len(path) < maxPath {
		var story *api.BuildStory
		err := s.ask(ctx, func(ctx context.Context, c *apiclient.Client) (err error) {
			story, err = c.Story(ctx, last.ID)
			return err
		})
		if err != nil {
			return nil, err
		}
		var before *api.Build
		for i := range story.Events {
			if story.Events[i].Kind != api.KindMissingInputs {
				continue
			}
			for _, name := range strings.Fields(story.Events[i].Reason) {
				b := byDerivation[store.Path(name)]
				if b != nil && b.Stopped != nil && !ends(b).After(ends(last)) && b.ID != last.ID && (before == nil || ends(b).After(ends(before))) {
					before = b
				}
			}
		}
		if before == nil {
			break
		}
		path, last = append(path, *before), before
	}
	slices.Reverse(path)
	return path, nil
}
