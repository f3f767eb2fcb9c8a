pragma circom 2.1.0;

// Like the subnet's proof of weights in form, not in formula: outputs first, lists of N, scalars, a range check each.

template Bits(n) {
    signal input in;
    signal out[n];
    var sum = 0;
    var unit = 1;
    for (var i = 0; i < n; i++) {
        out[i] <-- (in >> i) & 1;
        out[i] * (out[i] - 1) === 0;
        sum += out[i] * unit;
        unit += unit;
    }
    sum === in;
}

template Scores(N, BITS) {
    signal input previous_score[N];
    signal input verified[N];
    signal input response_time[N];
    signal input validator_uid[N];
    signal input block_number[N];
    signal input miner_uid[N];
    signal input scaling;
    signal input RATE_OF_DECAY;
    signal input MAXIMUM_RESPONSE_TIME_DECIMAL;

    signal output new_score[N];
    signal output block_number_out[N];
    signal output miner_uid_out[N];
    signal output validator_uid_out[N];

    component left[N];
    signal kept[N];
    signal won[N];
    for (var i = 0; i < N; i++) {
        verified[i] * (verified[i] - 1) === 0;
        left[i] = Bits(BITS);
        left[i].in <== 60 * scaling - response_time[i]; // within a minute
        kept[i] <== previous_score[i] * (scaling - RATE_OF_DECAY);
        won[i] <== verified[i] * left[i].in;
        new_score[i] <== kept[i] + won[i];
        block_number_out[i] <== block_number[i];
        miner_uid_out[i] <== miner_uid[i];
        validator_uid_out[i] <== validator_uid[i];
    }
}
