from training.translation import main

main()
