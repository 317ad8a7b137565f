// Reads PromQL expressions as JSON from stdin and prints, for each, the metrics that it selects and the labels that it
// names there: Prometheus' own parser judges them. Grafana's variables have to be replaced before.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

type selector struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

func main() {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		panic(err)
	}
	result := make([][]selector, 0, len(expressions))
	for _, text := range expressions {
		expression, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", text, err)
			os.Exit(1)
		}
		found := []selector{}
		grouping := []string{}
		parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.AggregateExpr:
				grouping = append(grouping, n.Grouping...)
			case *parser.VectorSelector:
				s := selector{Metric: n.Name, Labels: append([]string{}, grouping...)}
				for _, matcher := range n.LabelMatchers {
					if matcher.Name != labels.MetricName {
						s.Labels = append(s.Labels, matcher.Name)
					}
				}
				found = append(found, s)
			}
			return nil
		})
		result = append(result, found)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		panic(err)
	}
}
