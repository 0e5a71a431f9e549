"""Tables: the store's tidy frame in, the frame a page shows out. Means come with their spread and n.

Each module serves a few pages; what pages call is here.
"""

from cramming.tables._attention import attention_table
from cramming.tables._bits import (
    IN_THE_LOOP,
    by_rounding,
    few_bits,
    fewest_bits,
    fewest_for_all,
    file_ratio,
    file_sizes,
    file_table,
    information_per_token,
    survival_summary,
    survival_table,
)
from cramming.tables._context import (
    CONTEXTS,
    SURPRISE,
    SURPRISE_LABELS,
    context_by_surprise,
    context_summary,
    context_table,
    context_worth,
)
from cramming.tables._cost import (
    SYSTEMS,
    bars,
    executors,
    executors_table,
    stair,
    step_cost,
    systems,
    systems_summary,
    systems_table,
    variants,
)
from cramming.tables._growth import growth_correlations, stops, trajectories
from cramming.tables._horizons import (
    exact_curve,
    gains,
    horizon_table,
    horizons,
    paper_protocol,
    protocol_table,
    protocols,
)
from cramming.tables._information import (
    beyond,
    crammed_bits,
    held,
    limit_table,
    limit_tests,
    limits,
    past_capacity,
    published_gains,
    reduction,
    reduction_table,
    text_table,
    theory,
    theory_table,
)
from cramming.tables._ledger import (
    bounds_table,
    ledger_table,
    published_horizon,
    published_table,
    recipes_used,
    unmeasured_table,
    verdicts,
)
from cramming.tables._lossless import (
    ACCURACY_CLASSES,
    accuracy_and_exactness,
    against,
    asked,
    asked_table,
    cut,
    cut_price,
    cut_price_table,
    exactness,
    safe_margin,
    settings,
    settings_table,
)
from cramming.tables._memories import (
    MEMORIES,
    memories,
    memories_seconds,
    memories_table,
    memories_tuning,
    memory_in_words,
    several_ends,
    several_ends_table,
    several_table,
    several_vectors,
)
from cramming.tables._models import (
    FAMILIES,
    change_in_words,
    cut_table,
    cuts,
    model_sizes,
    same_passages,
    size_fit_table,
    size_fits,
)
from cramming.tables._plans import (
    bill_table,
    devices_sources,
    devices_table,
    estimate_line,
    estimate_table,
    grid_table,
    hours_table,
    memory_table,
    passages_table,
)
from cramming.tables._solutions import nearest_table, similarity_table, ways, ways_table
from cramming.tables._sphere import arms, arms_by_model, arms_table, found
from cramming.tables._steering import (
    FRONTS,
    WRITERS,
    cloze_summary,
    cloze_table,
    continued_summary,
    continued_table,
    middle_summary,
    middle_table,
    paired,
    seen,
    written_examples,
    written_table,
)
from cramming.tables._units import PUBLISHED, forecast_summary, forecast_table, unit_table, units
from cramming.tables._words import bits, budgets, cost, figures, percent, setting, spelled, spend
