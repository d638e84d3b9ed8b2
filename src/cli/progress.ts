/** The run on a screen: a progress line that is redrawn in a terminal, plain lines elsewhere. */
import type { TrainEvent } from '../train/events';
import { duration, say, style } from './output';

const WIDTH = 24;

export class Progress {
  private readonly live: boolean;
  private started = 0;
  private firstStep = 0;
  private maxSteps = 0;

  /** `plain` prints lines even in a terminal (disable_tqdm). */
  constructor(plain = false) {
    this.live = !plain && process.stdout.isTTY === true;
  }

  show(event: TrainEvent): void {
    switch (event.type) {
      case 'begin':
        this.started = performance.now();
        this.firstStep = event.state.globalStep;
        this.maxSteps = event.state.maxSteps;
        return;
      case 'step':
        return this.step(event);
      case 'log':
        // The live line already shows the step; logs are for plain output.
        if (!this.live)
          this.line(
            `step ${event.step}/${this.maxSteps}  loss ${event.entry.loss.toFixed(4)}  lr ${event.entry.learning_rate.toExponential(2)}  grad norm ${event.entry.grad_norm.toFixed(3)}  epoch ${event.entry.epoch.toFixed(2)}`,
          );
        return;
      case 'evaluate':
        return this.line(
          style.bold(
            `step ${event.step}/${this.maxSteps}  eval loss ${event.metrics.eval_loss.toFixed(4)}  perplexity ${event.metrics.eval_perplexity.toFixed(2)}`,
          ),
        );
      case 'save':
        return this.line(style.dim(`saved ${event.path}`));
      case 'end':
        if (this.live) process.stdout.write('\r\u001b[K');
        return;
    }
  }

  private step(event: Extract<TrainEvent, { type: 'step' }>): void {
    if (!this.live) return;
    const done = event.step / this.maxSteps;
    const filled = Math.round(done * WIDTH);
    const perStep = (performance.now() - this.started) / (event.step - this.firstStep);
    const left = duration(((this.maxSteps - event.step) * perStep) / 1000);
    const bar = '█'.repeat(filled) + '░'.repeat(WIDTH - filled);
    const text = `${bar} ${event.step}/${this.maxSteps}  loss ${event.loss.toFixed(4)}  ${Math.round(event.tokensPerSecond)} tokens/s  ${left} left`;
    process.stdout.write(`\r\u001b[K${text.slice(0, (process.stdout.columns ?? 100) - 1)}`);
  }

  private line(text: string): void {
    if (this.live) process.stdout.write('\r\u001b[K');
    say(text);
  }
}
