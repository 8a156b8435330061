package submission

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// Cancel cancels the builds with these ids, in portions, and returns how many it canceled.
func Cancel(ctx context.Context, client *apiclient.Client, ids []string, reason string) (canceled int, err error) {
	for portion := range slices.Chunk(ids, api.MaxSubmit) {
		done, err := client.CancelAll(ctx, &api.Selection{IDs: portion, Reason: reason})
		if err != nil {
			return canceled, fmt.Errorf("cancel builds: %w", err)
		}
		canceled += done.Count
	}
	return canceled, nil
}

// CancelSuperseded cancels what a submission with these tags supersedes, and returns how
// many: the unfinished builds that have its value of the tag key, and not all of its other
// tags. Builds in kept, by id, stay.
func CancelSuperseded(ctx context.Context, client *apiclient.Client, key string, tags map[string]string, kept map[string]bool) (canceled int, err error) {
	filter := &api.Filter{States: api.OpenStates(), Tags: map[string]string{key: tags[key]}}
	others := maps.Clone(tags)
	delete(others, key)
	if len(others) == 1 { // more would spare builds that have only some of them
		filter.NotTags = others
	}
	var ids []string
	_, err = client.EachPage(ctx, filter, 0, func(page []api.Build) error {
		for i := range page {
			// A build that was made for another goes with it.
			if old := &page[i]; old.Parent == "" && !kept[old.ID] && !hasTags(old, tags) {
				ids = append(ids, old.ID)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for superseded builds: %w", err)
	}
	return Cancel(ctx, client, ids, fmt.Sprintf("superseded in %s=%s", key, tags[key]))
}

// hasTags reports whether a build has all of these tags.
func hasTags(b *api.Build, tags map[string]string) bool {
	for k, v := range tags {
		if found, ok := b.Tags[k]; !ok || found != v {
			return false
		}
	}
	return true
}
