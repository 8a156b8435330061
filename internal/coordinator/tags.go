package coordinator

import (
	"context"
	"maps"
	"slices"
	"strings"

	"lighter/internal/api"
)

// tags returns the machine's tags in the file, with what operators changed.
func (m *machine) tags() map[string]string {
	tags := maps.Clone(m.Tags)
	for _, name := range m.setting.Untagged {
		delete(tags, name)
	}
	if tags == nil && len(m.setting.Tags) > 0 {
		tags = make(map[string]string)
	}
	maps.Copy(tags, m.setting.Tags)
	return tags
}

// retag changes a machine's tags.
func (m *machine) retag(l *loop, change *api.TagChange) error {
	s := m.setting
	s.Tags, s.Untagged = maps.Clone(s.Tags), slices.Clone(s.Untagged)
	var did []string
	for _, name := range change.Remove {
		delete(s.Tags, name)
		if _, filed := m.Tags[name]; filed && !slices.Contains(s.Untagged, name) {
			s.Untagged = append(s.Untagged, name)
		}
		did = append(did, "without "+name)
	}
	for _, name := range slices.Sorted(maps.Keys(change.Set)) {
		if s.Tags == nil {
			s.Tags = make(map[string]string)
		}
		s.Tags[name] = change.Set[name]
		s.Untagged = slices.DeleteFunc(s.Untagged, func(x string) bool { return x == name })
		did = append(did, name+"="+change.Set[name])
	}
	if len(s.Tags) > api.MaxTags || len(s.Untagged) > api.MaxTags {
		return api.BadRequest("machine %s would have more than %d tags", m.Name, api.MaxTags)
	}
	m.setting = s
	m.operate(l, "tags: "+strings.Join(did, ", "))
	return nil
}

// TagMachine changes the tags of a machine, which change.Check has passed.
func (c *Coordinator) TagMachine(ctx context.Context, name string, change *api.TagChange) (*api.MachineStatus, error) {
	return c.changeMachine(ctx, name, func(l *loop, m *machine) error { return m.retag(l, change) })
}
