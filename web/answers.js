// From logits to answers, as qalib/qa/pipeline.py: the same candidates, scores and words.

const LONGEST = 15; // tokens of an answer
const MOST = 12; // candidates that a window keeps

/** Softmax over [CLS] and the context; returns the probabilities of the context tokens. */
export function probabilities(logits, window) {
  const { ids, first, word } = window;
  const allowed = (n) => ids[n] === ids[0] || (n >= first && n < first + word.length);
  let largest = -Infinity;
  for (let n = 0; n < ids.length; n++) if (allowed(n)) largest = Math.max(largest, logits[n]);
  const weights = ids.map((_, n) => (allowed(n) ? Math.exp(logits[n] - largest) : 0));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.slice(first, first + word.length).map((weight) => weight / sum);
}

/** The spans with the highest start[i] * end[j], best first, of equal ones the earlier: [i, j, score]. */
export function candidates(start, end) {
  const found = [];
  for (let i = 0; i < start.length; i++)
    for (let j = i; j < Math.min(i + LONGEST, end.length); j++) found.push([i, j, start[i] * end[j]]);
  return found
    .sort((a, b) => b[2] - a[2])
    .slice(0, MOST)
    .filter(([, , score]) => score > 0);
}

/**
 * The best answer over all windows: {score, start, end, answer}. Candidates are widened to whole words; those that read
 * the same, but for case, are one: the place of the first, the sum of the scores. No span above 0 gives score 0.
 */
export function best(context, spans, scored) {
  const merged = new Map();
  for (const { window, start, end } of scored)
    for (const [i, j, score] of candidates(start, end)) {
      const place = [spans[window.word[i]][0], spans[window.word[j]][1]];
      const answer = context.slice(...place);
      const key = answer.toLowerCase();
      if (!merged.has(key)) merged.set(key, { score: 0, start: place[0], end: place[1], answer });
      merged.get(key).score += score;
    }
  return [...merged.values()].reduce((a, b) => (b.score > a.score ? b : a), { score: 0, start: 0, end: 0, answer: "" });
}

/** For every word of the context the largest probability of its tokens to start and to end the answer. */
export function byWord(spans, scored) {
  const found = spans.map(() => ({ start: 0, end: 0 }));
  for (const { window, start, end } of scored)
    window.word.forEach((word, n) => {
      found[word].start = Math.max(found[word].start, start[n]);
      found[word].end = Math.max(found[word].end, end[n]);
    });
  return found;
}
